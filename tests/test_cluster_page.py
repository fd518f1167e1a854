"""The page on clusters: its 70 B example is what a plan says of models of that shape."""

import json
import re

import pytest
import torch

from seme_bench.folders import HOME as ROOT
from seme_bench.planning import print_plan
from tests.configurations import CONF, composed

PAGE = (CONF / "hydra/launcher/README.md").read_text(encoding="utf-8")
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192,
    "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80,
    "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 8192, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
OF_A_LAYER = (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
    "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Configuration and index of three models of 70 B parameters, without weights."""
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    names += [f"model.layers.{i}.{part}.weight" for i in range(80) for part in OF_A_LAYER]
    folders = [tmp_path_factory.mktemp(name) for name in ("base", "a", "b")]
    for folder in folders:
        (folder / "config.json").write_text(json.dumps(SHAPE))
        index = {"weight_map": dict.fromkeys(names, "model-00001-of-00030.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folders


@pytest.fixture
def plan(models, tmp_path, monkeypatch, capsys):
    """Rows of the plan of a merge of these models on one thread."""
    base, *sources = models
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("COLUMNS", "200")

    def rows(method):
        config = composed(
            f"method={method}", "models=custom", f"models.pivot={base}", "suite=none",
            f"models.sources=[{sources[0]},{sources[1]}]", "tracker=none", "plan=true",
            f"output={tmp_path}",
        )  # fmt: skip
        print_plan(config, method, method, root=ROOT)
        lines = capsys.readouterr().out
        return dict(re.findall(r"^│ (\S.*?) +│ (.*?) +│$", lines, re.MULTILINE))

    return rows


def test_the_70_b_example_is_what_the_plan_says(plan):
    rows = plan("ties")
    for entry in ("merged", "to read", "to write", "peak memory"):
        assert re.search(rf"^    {entry} +{re.escape(rows[entry])}$", PAGE, re.MULTILINE), entry
    n_bytes = float(rows["to write"].removesuffix(" GB"))
    assert f"Over four GPUs the weights are {n_bytes / 4:.1f} GB" in PAGE
    assert f"over two {n_bytes / 2:.1f} GB" in PAGE


def test_the_memory_of_seme_is_what_the_plan_says(plan):
    peak = plan("seme")["peak memory"].partition(" ")[0]
    assert f"SeMe's alignment takes {peak} GB" in PAGE


def test_every_launcher_of_the_page_has_a_file_and_the_other_way_round():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in CONF.glob("hydra/launcher/*.yaml"))
