"""Quantised checkpoints are refused by the tensor's name; other integers are no weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from seme.checkpoint.reader import open_checkpoint
from seme.compatibility import reasons_to_copy

Q = "model.layers.0.mlp.up_proj"
EXPERTS = "model.layers.0.mlp.experts"
INT32, INT8, UINT8 = (torch.ones(4, 4, dtype=d) for d in (torch.int32, torch.int8, torch.uint8))
SCALE = torch.ones(4)


def model_folder(path, tensors, **config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "toy", **config}))
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # none may share memory
    save_file({"a.weight": torch.ones(2, 2), **own}, path / "model.safetensors")
    return path


def refused(folder, match):
    with pytest.raises(ValueError, match=match):
        open_checkpoint(folder, root=folder.parent)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{Q}.qweight": INT32, f"{Q}.qzeros": INT32, f"{Q}.scales": SCALE}, "qweight"),
        ({f"{Q}.g_idx": INT32[0]}, "g_idx"),
        ({f"{Q}.weight": UINT8, f"{Q}.weight.absmax": SCALE}, "weight"),
        ({f"{Q}.weight.absmax": SCALE}, "weight.absmax"),
        ({f"{Q}.weight.quant_state.bitsandbytes__nf4": UINT8}, "weight.quant_state.*nf4"),
        ({f"{Q}.weight": INT8, f"{Q}.SCB": SCALE}, "SCB"),
        ({f"{Q}.weight": INT8, f"{Q}.scale": SCALE}, "weight"),
        ({f"{Q}.weight_packed": INT32, f"{Q}.weight_scale": SCALE}, "weight_packed"),
        ({f"{Q}.weight_scale_inv": SCALE}, "weight_scale_inv"),
        ({f"{Q}.weight._data": INT8, f"{Q}.weight._scale": SCALE}, "weight._data"),
        ({f"{Q}.W_q": UINT8, f"{Q}.scale": SCALE, f"{Q}.zero": SCALE}, "W_q"),
        ({f"{Q}.codes": INT8, f"{Q}.codebooks": SCALE}, "codes"),
        (
            {f"{EXPERTS}.down_proj_blocks": UINT8, f"{EXPERTS}.down_proj_scales": UINT8},
            "blocks",
        ),
        ({f"{EXPERTS}.down_proj": INT8, f"{EXPERTS}.down_proj_scale": SCALE}, "down_proj"),
    ],
)
def test_packed_weights_are_refused_by_name_whatever_the_configuration(
    tmp_path, tensors, named
):
    folder = model_folder(tmp_path / "m", tensors)
    refused(folder, rf"is quantised: \S+{named} \(torch\.\w+\) in model\.safetensors is a part")


def test_integers_that_are_no_weights_are_copied_with_a_reason(tmp_path):
    buffers = {
        "embeddings.position_ids": torch.arange(8).view(1, 8),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "h.0.attn.mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.attn.weight_mask": torch.ones(4, 4, dtype=torch.bool),
        "h.0.gate.tid2eid": torch.ones(8, 2, dtype=torch.int32),
        "h.0.weighted_pool.steps": torch.tensor(3),
        "logit_scale": torch.tensor(1.0),
    }
    folder = model_folder(tmp_path / "m", buffers)
    model = open_checkpoint(folder, root=tmp_path)
    copied = reasons_to_copy(model, [], [])
    assert copied.keys() == buffers.keys() - {"logit_scale"}
    assert copied["embeddings.position_ids"] == "not floating point (int64)"


FP8 = {"quant_method": "fp8"}


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": FP8},
        {"compression_config": FP8},
        {"text_config": {"quantization_config": FP8}},
    ],
)
def test_a_configuration_that_says_so_is_refused_over_plain_weights(tmp_path, config):
    refused(
        model_folder(tmp_path / "m", {}, **config),
        r"is quantised, says its config\.json: \w+_config is \{'quant_method': 'fp8'\}; .* remove",
    )


def test_an_empty_entry_says_nothing(tmp_path):
    folder = model_folder(tmp_path / "m", {}, quantization_config={}, text_config=None)
    assert open_checkpoint(folder, root=tmp_path).names == ("a.weight",)
