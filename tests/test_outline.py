"""Outlines: a plan needs no shards, neither in a folder nor of a model on the Hub."""

import json

import pytest

from seme.checkpoint.outline import _specs_of_architecture, open_outline


@pytest.fixture
def folder(make_llama, tmp_path):
    """A sharded model without its shards, beside which lies one with them."""
    whole = make_llama(tmp_path / "whole", 0)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((whole / "config.json").read_bytes())
    names = ["model.norm.weight", "lm_head.weight"]
    write_index(bare, dict.fromkeys(names, "model-1.safetensors"))
    return bare


def write_index(folder, placed):
    text = json.dumps({"weight_map": placed})
    (folder / "model.safetensors.index.json").write_text(text)


def rewrite(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def asked_of_the_hub(monkeypatch, *snapshots):
    """Let the Hub deliver one folder after the other; return the patterns it was asked for."""
    asked, left = [], iter(snapshots)

    def fetch(_hub_id, **options):
        asked.append(options["allow_patterns"])
        return str(next(left))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return asked


def test_the_shards_of_a_model_on_the_hub_are_not_fetched(folder, tmp_path, monkeypatch):
    asked = asked_of_the_hub(monkeypatch, folder)
    outline = open_outline("org/name", revision="v1", root=tmp_path)
    assert (outline.shape("lm_head.weight"), outline.commit) == ((64, 16), "bare")
    assert ["*.safetensors" in patterns for patterns in asked] == [False]


def test_a_single_file_on_the_hub_is_fetched_for_its_header(folder, tmp_path, monkeypatch):
    (folder / "model.safetensors.index.json").unlink()
    asked = asked_of_the_hub(monkeypatch, folder, tmp_path / "whole")
    assert len(open_outline("org/name", root=tmp_path).names) > 2
    assert ["*.safetensors" in patterns for patterns in asked] == [False, True]


def test_a_head_tied_by_default_is_left_out_without_its_bytes(folder, monkeypatch):
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    write_index(folder, dict.fromkeys(names, "model-1.safetensors"))
    text = (
        (folder / "config.json").read_text().replace('"tie_word_embeddings": false', '"_": 0')
    )
    (folder / "config.json").write_text(text)
    assert "lm_head.weight" in open_outline(folder, root=folder).names  # a llama says no
    known = _specs_of_architecture(folder)
    monkeypatch.setattr("seme.checkpoint.outline._specs_of_architecture", lambda _: known)
    rewrite(folder, model_type="gemma")
    assert open_outline(folder, root=folder).names == tuple(sorted(names)[1:])


def test_a_quantised_model_is_refused_before_its_shapes_are_asked_for(folder, monkeypatch):
    monkeypatch.setattr(
        "seme.checkpoint.outline._specs_of_architecture", lambda _: pytest.fail("asked")
    )
    rewrite(folder, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(ValueError, match=r"is quantised, says its config\.json: .*mxfp4"):
        open_outline(folder, root=folder)


def test_files_that_are_malformed_are_named(folder):
    write_index(folder, {"lm_head.weight": "../model-1.safetensors"})
    with pytest.raises(ValueError, match="index paths are confined"):
        open_outline(folder, root=folder)
    write_index(folder, [])
    with pytest.raises(ValueError, match=r"index\.json must map tensor names to files"):
        open_outline(folder, root=folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json cannot be parsed"):
        open_outline(folder, root=folder)
