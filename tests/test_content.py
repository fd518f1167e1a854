"""Content hashes of several models: each as if it were hashed alone, no folder hashed twice."""

import json
import threading

import pytest
import torch
from safetensors.torch import save_file

from seme.checkpoint.content import content_hashes
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import Checkpoint, open_checkpoint

KEY = "base_model.model.a"


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))


def model(root, value):
    folder = root / f"m{value}"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "toy"}')
    save_file({"a.weight": torch.full((4, 4), float(value))}, folder / "model.safetensors")
    return open_checkpoint(folder, root=root)


def adapter(base, value):
    folder = base.path.parent / f"lora{value}"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": value}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    factors = {
        f"{KEY}.lora_A.weight": torch.ones(1, 4),
        f"{KEY}.lora_B.weight": torch.ones(4, 1),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return open_adapter(folder, base=base.path, root=base.path.parent)


def test_every_model_has_the_hash_it_has_alone_in_the_order_given(tmp_path):
    plain = [model(tmp_path, value) for value in range(6)]
    mixed = [plain[3], adapter(plain[3], 1), *plain, adapter(plain[3], 2), plain[0]]
    expected = [one.content_hash() for one in mixed]
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.unlink()
    assert content_hashes(mixed) == expected
    assert len(set(expected)) == 8


def test_no_model_is_no_hash():
    assert content_hashes([]) == []


def test_a_folder_that_stands_there_twice_is_read_once(tmp_path, monkeypatch):
    one = model(tmp_path, 1)
    again = open_checkpoint(one.path, root=tmp_path)
    computed, compute = [], Checkpoint._compute_hash
    monkeypatch.setattr(
        Checkpoint, "_compute_hash", lambda self: computed.append(self.path) or compute(self)
    )
    content_hashes([one, again, adapter(one, 1), adapter(again, 2)])
    assert computed == [one.path]


def test_models_are_hashed_side_by_side(tmp_path, monkeypatch):
    together, compute = threading.Barrier(3, timeout=10), Checkpoint._compute_hash
    monkeypatch.setattr(
        Checkpoint, "_compute_hash", lambda self: together.wait() >= 0 and compute(self)
    )
    assert len(content_hashes([model(tmp_path, value) for value in range(3)])) == 3


def test_a_file_that_became_shorter_is_named(tmp_path):
    models = [model(tmp_path, value) for value in range(3)]
    (models[1].path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m1/model\.safetensors has become shorter"):
        content_hashes(models)
