"""SeMe's preparation: realigned sources, bytes read, refusals, diagnostics."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from baselines.sce import merge as sce
from seme.binding import check_method
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.method import merge, prepare
from seme.streaming import Models
from tests.disguise import assert_same_logits, disguised, logits_at, save_turnable
from tests.in_memory import merge_one
from tests.seme_merges import (
    ALIGNMENT,
    SETTINGS,
    bits,
    change_tensors,
    merged,
    settings_with,
    tensors_of,
)
from tests.tiny_models import save_tiny

ENDS = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
N_TOKENS = 160


def models_of(*folders: Path) -> Models:
    pivot, *sources = (open_checkpoint(folder, root=folder) for folder in folders)
    return Models(
        pivot=pivot,
        sources=tuple(sources),
        merged_names=pivot.names,
        device=torch.device("cpu"),
    )


def prepared(*folders: Path, **settings: object):
    chosen = settings_with(**settings)
    return prepare(models_of(*folders), tau=chosen["tau"], alignment=chosen["alignment"])


def save_ends_of(pivot: Path, folder: Path, model_type: str, **settings: object) -> Path:
    """Write another model with the pivot's embedding, final norm and head."""
    save_tiny(folder, model_type, seed=1, **settings)
    ends = {name: t for name, t in tensors_of(pivot).items() if name in ENDS}
    change_tensors(folder, **ends)
    return folder


def write_vocabulary(folder: Path, tokens: list[str]) -> None:
    """Write a tokenizer.json in which the token of each row is given."""
    ids = {token: row for row, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": ids, "unk_token": tokens[0]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))


@pytest.fixture
def pivot(tmp_path) -> Path:
    return save_tiny(tmp_path / "pivot", "llama")


@pytest.fixture
def other(tmp_path) -> Path:
    return save_tiny(tmp_path / "other", "llama", seed=1)


def test_in_frame_sources_are_merged_as_stored(pivot, tmp_path):
    source = save_ends_of(pivot, tmp_path / "source", "llama")
    merged(tmp_path / "merged", pivot, source, tau=0.4)
    name = "model.layers.1.mlp.up_proj.weight"
    pivot_tensors, source_tensors = tensors_of(pivot)[name], tensors_of(source)[name]
    expected = merge_one(
        sce,
        pivot_tensors,
        [source_tensors],
        tau=0.4,
        lam=1.0,
        renormalize=False,
        select="deltas",
    )
    assert torch.equal(tensors_of(tmp_path / "merged")[name], expected)


def test_in_frame_preparation_reads_only_heads_and_final_norms(pivot, tmp_path, monkeypatch):
    source, was_read = save_ends_of(pivot, tmp_path / "source", "llama"), set()
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda of, n: (was_read.add(n), read(of, n))[1])
    actual = prepared(pivot, source)
    assert was_read == {"lm_head.weight", "model.norm.weight"}
    assert actual.models.sources[0].path == source
    assert isinstance(actual.models.sources[0], Checkpoint)


def test_identity_tolerance_decides_which_sources_are_realigned(pivot, other):
    assert not prepared(pivot, other, identity_tolerance=2.0).folded
    assert prepared(pivot, other).folded
    assert prepared(pivot, pivot, identity_tolerance=0.0).folded


def test_match_units_always_matches_in_frame_sources(pivot, tmp_path):
    source = save_tiny(tmp_path / "source", "llama")
    order, permuted = torch.arange(47, -1, -1), {}
    for name, tensor in tensors_of(source).items():
        if name.startswith("model.layers.0.mlp.") and "down_proj" not in name:
            permuted[name] = tensor[order]
        elif name == "model.layers.0.mlp.down_proj.weight":
            permuted[name] = tensor[:, order].contiguous()
    change_tensors(source, **permuted)
    merged(tmp_path / "merged", pivot, source, match_units="always")
    actual = tensors_of(tmp_path / "merged")
    assert actual.keys() == tensors_of(pivot).keys()
    assert all(torch.allclose(actual[n], t, atol=1e-6) for n, t in tensors_of(pivot).items())


@pytest.mark.parametrize(("n_pivot", "n_source"), [(3, 5), (4, 3), (1, 4)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_layers_of_another_depth_are_interpolated(model_type, n_pivot, n_source, tmp_path):
    pivot = save_tiny(tmp_path / "pivot", model_type, num_hidden_layers=n_pivot)
    source = save_ends_of(pivot, tmp_path / "source", model_type, num_hidden_layers=n_source)
    merged(tmp_path / "merged", pivot, source)
    actual, source_tensors = tensors_of(tmp_path / "merged"), tensors_of(source)
    for layer in range(n_pivot):
        below, share = divmod(layer * (n_source - 1) / max(n_pivot - 1, 1), 1)
        name = "model.layers.{}.mlp.down_proj.weight"
        above = name.format(min(int(below) + 1, n_source - 1))
        expected = (1 - share) * source_tensors[
            name.format(int(below))
        ] + share * source_tensors[above]
        torch.testing.assert_close(actual[name.format(layer)], expected, atol=1e-6, rtol=0)
    assert logits_at(tmp_path / "merged").isfinite().all()


def test_embedding_rows_follow_shared_tokens(pivot, tmp_path):
    # the source knows all tokens but the last ten, in the reverse order, and ten of its own
    source = save_ends_of(pivot, tmp_path / "source", "llama")
    words = [f"w{row}" for row in range(N_TOKENS)]
    write_vocabulary(pivot, words)
    write_vocabulary(source, [*words[149::-1], *(f"x{row}" for row in range(10))])
    reverse = torch.arange(149, -1, -1)
    moved = tensors_of(pivot)["lm_head.weight"].clone()
    moved[:150] = moved[reverse]
    moved[150:] *= -3  # what the source says of its own tokens does not matter
    change_tensors(source, **{"lm_head.weight": moved})
    report = merged(tmp_path / "merged", pivot, source)
    actual, pivot_tensors = tensors_of(tmp_path / "merged"), tensors_of(pivot)
    assert torch.equal(actual["lm_head.weight"], pivot_tensors["lm_head.weight"])
    rows, source_tensors = actual["model.embed_tokens.weight"], tensors_of(source)
    torch.testing.assert_close(rows[:150], source_tensors["model.embed_tokens.weight"][reverse])
    assert torch.equal(rows[150:], pivot_tensors["model.embed_tokens.weight"][150:])
    (diagnostics,) = report.diagnostics["sources"]
    assert (diagnostics["identity_shortcut"], diagnostics["shared_tokens"]) == (True, 150)
    assert diagnostics["overlap"] == 150 / 160


def test_disguised_copy_with_another_vocabulary_keeps_the_logits(tmp_path):
    pivot = save_turnable(tmp_path / "pivot", "qwen2")
    twin = disguised(pivot, tmp_path / "twin")
    words = [f"w{row}" for row in range(N_TOKENS)]
    write_vocabulary(pivot, words)
    write_vocabulary(twin, words[::-1])
    ends = {name: tensors_of(twin)[name].flip(0) for name in (ENDS[0], ENDS[2])}
    change_tensors(twin, **ends)
    merged(tmp_path / "merged", pivot, twin)
    assert_same_logits(tmp_path / "merged", pivot)


def test_untied_source_unties_a_tied_pivot(tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "llama", tie_word_embeddings=True)
    source = save_tiny(tmp_path / "source", "llama")
    head = tensors_of(source)["model.embed_tokens.weight"] + 1e-3
    change_tensors(source, **{"lm_head.weight": head})
    report = merged(tmp_path / "untied", pivot, source)
    assert report.diagnostics["sources"][0]["identity_shortcut"]
    assert "lm_head.weight" in prepared(pivot, source).models.merged_names
    torch.testing.assert_close(tensors_of(tmp_path / "untied")["lm_head.weight"], head)
    assert_same_logits(tmp_path / "untied", source)


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("*layers.1.input_layernorm*", "model.layers.1.input_layernorm.weight"),
        ("*q_proj.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("lm_head*", "lm_head.weight"),
    ],
)
def test_folded_tensors_cannot_be_excluded(left_out, named, pivot, other, tmp_path):
    with pytest.raises(ValueError, match=rf"must be merged, but \['{named}'.*drop the include"):
        merged(tmp_path / "merged", pivot, other, exclude=[left_out])


EXCLUDED = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("change", ["lacking", "another shape", "only in the source"])
def test_an_excluded_tensor_need_not_be_in_a_source_merged_as_stored(change, pivot, tmp_path):
    source = save_ends_of(pivot, tmp_path / "source", "llama")
    whole = merged(tmp_path / "whole", pivot, source, exclude=["*up_proj*"])
    path = source / "model.safetensors"
    tensors = tensors_of(source)
    if change == "lacking":
        del tensors[EXCLUDED]
    elif change == "another shape":
        tensors[EXCLUDED] = tensors[EXCLUDED][:8].clone()
    else:
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.ones(3)
    save_file(tensors, path, metadata={"format": "pt"})
    report = merged(tmp_path / "merged", pivot, source, exclude=["*up_proj*"])
    assert report.copied == whole.copied
    assert [s["identity_shortcut"] for s in report.diagnostics["sources"]] == [True]
    assert bits(tmp_path / "merged") == bits(tmp_path / "whole")
    assert torch.equal(tensors_of(tmp_path / "merged")[EXCLUDED], tensors_of(pivot)[EXCLUDED])


def test_an_excluded_head_that_a_source_lacks_is_still_named(pivot, tmp_path):
    source = save_ends_of(pivot, tmp_path / "source", "llama")
    tensors = tensors_of(source)
    del tensors["model.norm.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must be rewritten as a whole.*model\.norm\.weight"):
        merged(tmp_path / "merged", pivot, source, exclude=["model.norm*"])


def test_other_tensors_can_be_excluded(pivot, other, tmp_path):
    left_out = ["*embed_tokens*", "*o_proj*", "*down_proj*", "*bias"]
    merged(tmp_path / "merged", pivot, other, exclude=left_out)
    actual, pivot_tensors = tensors_of(tmp_path / "merged"), tensors_of(pivot)
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias"):
        assert torch.equal(actual[name], pivot_tensors[name])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("gpt2", "llama"), "norm: .*gpt2.* layer, .*llama.* rms"),
        (("llama", "olmo2"), "norms per block: .*llama.* attention_norm, mlp_norm"),
        (("llama", "qwen3"), "norm of queries and keys: .* none, .*qwen3.* head"),
    ],
)
def test_incomparable_architectures_are_refused(kinds, message, tmp_path):
    pivot, source = (save_tiny(tmp_path / kind, kind) for kind in kinds)
    with pytest.raises(ValueError, match=message) as caught:
        merged(tmp_path / "merged", pivot, source)
    assert "choose models of one kind" in str(caught.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "kinds", [("llama", "mistral"), ("llama", "qwen2"), ("mistral", "phi3")]
)
def test_comparable_model_types_are_merged(kinds, tmp_path):
    pivot, source = (save_tiny(tmp_path / kind, kind, seed=i) for i, kind in enumerate(kinds))
    merged(tmp_path / "merged", pivot, source)
    if "phi3" not in kinds:  # which turns half of each head by another frequency
        expected = logits_at(source)
        assert_same_logits(tmp_path / "merged", expected)
    assert tensors_of(tmp_path / "merged").keys() == tensors_of(pivot).keys()


def test_unknown_model_type_is_refused_if_realigned(pivot, other):
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bloom"}))
    with pytest.raises(ValueError, match="got 'bloom'"):
        prepared(pivot, other)


def test_head_comparison_over_the_budget_is_refused_before_reading(pivot):
    models = replace(models_of(pivot, pivot), memory_budget=10_000)
    with pytest.raises(ValueError, match=r"comparing the sources' heads .* is 1MiB: raise it"):
        prepare(models, tau=1.0, alignment=ALIGNMENT)
    assert models.pivot.bytes_read == 0


def test_realignment_over_the_budget_is_refused_before_alignment(
    pivot, other, tmp_path, monkeypatch
):
    monkeypatch.setattr("seme.method.find_frame", lambda *_: pytest.fail("aligned already"))
    monkeypatch.setattr("seme.budget._REWRITTEN_COPIES", 2**30)  # tiny models made large
    with pytest.raises(ValueError, match=r"rewriting sources .* \d+MiB .* 512MiB"):
        merged(tmp_path / "merged", pivot, other)
    assert not (tmp_path / "merged").exists()


def test_alignment_error_names_the_source(pivot, other):
    config = json.loads((other / "config.json").read_text())
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0}
    (other / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    with pytest.raises(ValueError, match="got 'yarn' in this llama model") as caught:
        prepared(pivot, other)
    assert caught.value.__notes__ == [f"while aligning source 0 ({other})"]


def test_non_finite_head_names_the_source(pivot, other):
    head = tensors_of(other)["lm_head.weight"].fill_(torch.nan)
    change_tensors(other, **{"lm_head.weight": head})
    with pytest.raises(ValueError, match="must be finite") as caught:
        prepared(pivot, pivot, other)
    assert caught.value.__notes__ == ["while solving for the semantic bases of source 1"]


def test_diagnostics_have_frame_similarity_and_seconds_per_source(pivot, other, tmp_path):
    report = merged(tmp_path / "merged", pivot, pivot, other, refine=1)
    actual = json.loads(json.dumps(report.diagnostics))
    same, turned = actual["sources"]
    assert (actual["projection"], actual["gains_folded"]) == ("orthogonal", True)
    assert (same["identity_shortcut"], turned["identity_shortcut"]) == (True, False)
    assert same["distance_from_identity"] < 1e-10
    assert turned["distance_from_identity"] == pytest.approx(2**0.5, abs=0.3)
    assert same["head_similarity"] == pytest.approx(1.0)
    assert (same["overlap"], same["shared_tokens"], same["ridge"]) == (1.0, 160, 0.0)
    first = turned["layers"][0]
    assert (first["source_layers"], first["shares"]) == ([0], [1.0])
    assert first["rotary_exact"]
    assert -1 < first["heads_similarity"] < 1 > first["neurons_similarity"] > 0
    stages = {"tokens", "bases", "map", "units", "refinement", "transformation"}
    assert turned["seconds"].keys() == stages
    assert sum(actual["fusion"]["coefficients"]) == pytest.approx(1.0)


def test_fewer_tokens_than_dimensions_give_a_ridge(tmp_path):
    model = save_tiny(tmp_path / "model", "llama", vocab_size=12)
    (actual,) = prepared(model, model).diagnostics()["sources"]
    assert actual["ridge"] > 0
    assert actual["identity_shortcut"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("projection", "polar", r"^alignment\.projection must be one of .*, got 'polar'"),
        ("refine", -1, r"^alignment\.refine must be a whole number of at least 0, got -1"),
        ("alignment", 0, r"^alignment must be a mapping of anchors, .*, got 0"),
        ("tau", 1.5, r"tau must be in \(0, 1\], got 1.5"),
        ("select", "all", "select must be one of coefficients, deltas, got 'all'"),
    ],
)
def test_out_of_range_settings_are_refused(key, value, message, pivot, tmp_path):
    with pytest.raises(ValueError, match=message):
        merged(tmp_path / "merged", pivot, pivot, **{key: value})


def test_config_file_has_exactly_the_settings():
    path = Path(__file__).parent.parent / "conf" / "method" / "seme.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    bound = functools.partial(merge, **SETTINGS)
    assert set(written) == bound.keywords.keys() | {"_target_", "_partial_"}
    assert written["alignment"].keys() == ALIGNMENT.keys()


def test_mistyped_alignment_option_is_refused_before_opening():
    alignment = {**ALIGNMENT, "indentity_tolerance": 0.1}
    method = functools.partial(merge, **{**SETTINGS, "alignment": alignment})
    with pytest.raises(ValueError, match=r"did you mean alignment\.identity_tolerance\?"):
        check_method(method, 1)
