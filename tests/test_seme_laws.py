"""SeMe end to end on every architecture: logits that must not change."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.disguise import (
    assert_same_logits,
    disguised,
    folded,
    logits_at,
    open_canonical,
    save_turnable,
    written_tensors,
)
from tests.seme_merges import bits, change_tensors, merged, tensors_of
from tests.tiny_models import DENSE, MIXTURES, save_tiny


@dataclass(frozen=True)
class Disguise:
    pivot: Path
    twin: Path
    logits: torch.Tensor
    """The pivot's."""


@pytest.fixture(scope="module", params=DENSE)
def disguise(request, tmp_path_factory) -> Disguise:
    folder = tmp_path_factory.mktemp(request.param)
    pivot = save_turnable(folder / "pivot", request.param)
    return Disguise(pivot, disguised(pivot, folder / "twin"), logits_at(pivot))


def test_disguised_model_has_equal_logits_and_other_weights(disguise):
    assert_same_logits(disguise.twin, disguise.logits)
    plain = folded(disguise.pivot)
    matrices = {n: t for n, t in tensors_of(disguise.twin).items() if t.dim() == 2}
    assert all((t - plain.read(n)).abs().max() > 0.1 for n, t in matrices.items())


def test_averaging_with_the_disguised_copy_destroys_the_logits(disguise, tmp_path):
    plain, twin = folded(disguise.pivot), tensors_of(disguise.twin)
    average = {name: (plain.read(name) + twin[name]) / 2 for name in plain.names}
    broken = logits_at(written_tensors(average, plain.config, tmp_path / "average"))
    assert (broken - disguise.logits).std() > 0.5 * disguise.logits.std()


@pytest.mark.parametrize(("lam", "refine"), [(0.5, 0), (1.0, 2)])
def test_merge_with_the_disguised_copy_returns_the_model(disguise, lam, refine, tmp_path):
    merged(tmp_path / "merged", disguise.pivot, disguise.twin, lam=lam, refine=refine)
    assert_same_logits(tmp_path / "merged", disguise.logits)
    plain, actual = folded(disguise.pivot), tensors_of(tmp_path / "merged")
    assert set(actual) == set(plain.names)
    for name, tensor in actual.items():
        torch.testing.assert_close(tensor, plain.read(name), atol=1e-4, rtol=0.0, msg=name)


def test_merge_into_the_disguised_copy_keeps_the_logits(disguise, tmp_path):
    merged(tmp_path / "merged", disguise.twin, disguise.pivot)
    assert_same_logits(tmp_path / "merged", disguise.logits)


def test_in_frame_source_is_folded_with_an_out_of_frame_source(disguise, tmp_path):
    pivot, twin = disguise.pivot, disguise.twin
    report = merged(tmp_path / "merged", pivot, pivot, twin, tau=0.3, refine=0)
    assert_same_logits(tmp_path / "merged", disguise.logits)
    shortcuts = [actual["identity_shortcut"] for actual in report.diagnostics["sources"]]
    assert shortcuts == [True, False]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text", "gpt2"])
def test_tied_pivot_is_untied_if_a_source_is_rotated(model_type, tmp_path):
    pivot = save_turnable(tmp_path / "pivot", model_type, tie_word_embeddings=True)
    twin = disguised(pivot, tmp_path / "twin")
    merged(tmp_path / "merged", pivot, twin)
    assert not open_canonical(tmp_path / "merged").tied
    assert_same_logits(tmp_path / "merged", pivot)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        *((name, {"tau": 0.3}) for name in {**DENSE, **MIXTURES}),
        *((m, {"projection": "least_squares"}) for m in DENSE if not m.startswith("gpt")),
    ],
)
def test_model_merged_with_itself_is_bit_identical(model_type, settings, tmp_path):
    model = save_tiny(tmp_path / "model", model_type)
    merged(tmp_path / "merged", model, model, model, **settings)
    assert bits(tmp_path / "merged") == bits(model)


def test_cosine_projection_changes_a_merge_with_itself(tmp_path):
    model = save_tiny(tmp_path / "model", "llama")
    merged(tmp_path / "merged", model, model, projection="cosine", match_units="never")
    apart = logits_at(tmp_path / "merged") - logits_at(model)
    assert apart.abs().max() > 0.1


@pytest.mark.parametrize("projection", ["cosine", "least_squares"])
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_layer_norm_allows_the_orthogonal_projection_only(model_type, projection, tmp_path):
    model = save_tiny(tmp_path / "model", model_type)
    with pytest.raises(ValueError, match=f"projection=orthogonal.*got {projection}"):
        merged(tmp_path / "merged", model, model, projection=projection)


@pytest.mark.parametrize("model_type", DENSE)
def test_fully_selected_source_keeps_its_logits(model_type, tmp_path):
    pivot = save_turnable(tmp_path / "pivot", model_type)
    source = save_turnable(tmp_path / "source", model_type, seed=1)
    merged(tmp_path / "merged", pivot, source, anchors="head", refine=1)
    assert_same_logits(tmp_path / "merged", source)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_lam_zero_returns_the_function_of_the_pivot_and_as_stored_its_bytes(
    model_type, tmp_path
):
    pivot = save_turnable(tmp_path / "pivot", model_type)
    source = save_turnable(tmp_path / "source", model_type, seed=1)
    merged(tmp_path / "mapped", pivot, source, lam=0.0)
    assert_same_logits(tmp_path / "mapped", pivot)
    assert bits(tmp_path / "mapped") != bits(pivot)
    near = tmp_path / "near"
    shutil.copytree(pivot, near)
    changed = {n: t + 0.01 for n, t in tensors_of(near).items() if ".mlp." in n}
    change_tensors(near, **changed)
    merged(tmp_path / "stored", pivot, near, lam=0.0)
    assert bits(tmp_path / "stored") == bits(pivot)


def test_equal_sources_return_the_pivot_and_with_tau_all_themselves(tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "llama")
    source = tmp_path / "source"
    shutil.copytree(pivot, source)
    changed = {n: t + 0.25 for n, t in tensors_of(source).items() if ".mlp." in n}
    change_tensors(source, **changed)
    merged(tmp_path / "one", pivot, source, source, tau=1.0)
    assert bits(tmp_path / "one") == bits(pivot)
    merged(tmp_path / "all", pivot, source, source, tau="all")
    actual = tensors_of(tmp_path / "all")
    for name, tensor in tensors_of(source).items():
        torch.testing.assert_close(actual[name], tensor, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "olmo2"])
def test_varying_post_norm_gains_are_refused(model_type, tmp_path):
    pivot, source = (save_tiny(tmp_path / str(seed), model_type, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"attention_post_norm is a norm on a block's output"):
        merged(tmp_path / "merged", pivot, source)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_mixtures_are_merged_only_in_frame(model_type, tmp_path):
    pivot, source = (save_tiny(tmp_path / str(seed), model_type, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match=f"{model_type} models do not allow"):
        merged(tmp_path / "merged", pivot, source)
    with pytest.raises(ValueError, match=r"or alignment\.match_units is always"):
        merged(tmp_path / "merged", pivot, pivot, match_units="always")


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_result_does_not_depend_on_source_order(model_type, tmp_path):
    pivot, *sources = (save_tiny(tmp_path / str(s), model_type, seed=s) for s in range(3))
    merged(tmp_path / "forth", pivot, *sources, tau=0.3, refine=1)
    merged(tmp_path / "back", pivot, *sources[::-1], tau=0.3, refine=1)
    assert bits(tmp_path / "forth") == bits(tmp_path / "back")


def test_result_does_not_depend_on_torch_threads(tmp_path):
    pivot, source = (
        save_tiny(tmp_path / str(seed), "llama", seed=seed, num_hidden_layers=1)
        for seed in range(2)
    )
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        try:
            merged(tmp_path / f"on {n}", pivot, source, refine=0)
        finally:
            torch.set_num_threads(threads)
    assert bits(tmp_path / "on 1") == bits(tmp_path / "on 2")
