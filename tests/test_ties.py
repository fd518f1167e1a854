import pytest
import torch
from mergekit.merge_methods.api import merge_tensors
from peft.utils import merge_utils

from baselines.ties import merge, prepare
from tests.in_memory import merge_models, merge_one, models_of, random_models

TRIM = {"density": 1.0, "scope": "model", "trim_ties": "exact"}


def merge_model(pivot, *sources, **options):
    return merge_models(merge, pivot, *sources, **TRIM | {"lam": 1.0} | options)


def ties(pivot, sources, **options):
    tensors = [torch.as_tensor(source) for source in sources]
    options = TRIM | {"lam": 1.0, "scope": "tensor"} | options
    return merge_one(merge, torch.as_tensor(pivot), tensors, **options)


def mergekit_ties(pivot, sources, *, density, weight=1.0):
    parameters = {"density": density, "weight": weight, "normalize": True}
    return merge_tensors([pivot, *sources], "ties", parameters=parameters, base_index=0)


def test_minority_signs_are_left_out_of_the_mean():
    # task vectors [4, -1], [2, -3], [-1, 2]: elected signs [+, -]
    merged = ties([0.0, 0.0], [[4.0, -1.0], [2.0, -3.0], [-1.0, 2.0]])
    assert merged.tolist() == [3.0, -2.0]


def test_trimmed_values_neither_elect_nor_enter_the_mean():
    # density 1/2 keeps [4, -3, 0, 0] and [0, 0, -2, 6]; every mean is of one value
    sources = [[5.0, -2.0, 2.0, 2.0], [2.0, 0.0, -1.0, 7.0]]
    merged = ties([1.0, 1.0, 1.0, 1.0], sources, density=0.5, lam=2.0)
    assert merged.tolist() == [9.0, -5.0, -3.0, 13.0]


def test_scope_model_trims_over_the_whole_model_unlike_mergekit():
    # task vector a [9, 8], b [1, 2]: the model's larger half is all of a, the tensors' is not
    pivot = {"a": torch.zeros(2), "b": torch.zeros(2)}
    source = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}
    merged = merge_model(pivot, source, density=0.5)
    assert (merged["a"].tolist(), merged["b"].tolist()) == ([9.0, 8.0], [0.0, 0.0])
    per_tensor = {name: ties(pivot[name], [source[name]], density=0.5) for name in "ab"}
    assert per_tensor["a"].tolist() == [9.0, 0.0]
    assert per_tensor["b"].tolist() == [0.0, 2.0]
    assert mergekit_ties(pivot["b"], [source["b"]], density=0.5).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_scope_model_equals_merging_the_flattened_model(density):
    pivot, sources = random_models((1000,))
    whole = ties(pivot, sources, density=density)
    sizes = {"a": 10, "b": 900, "c": 90}

    def split(t):
        return dict(zip(sizes, t.split(list(sizes.values())), strict=True))

    merged = merge_model(split(pivot), *map(split, sources), density=density)
    assert torch.equal(torch.cat(list(merged.values())), whole)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.999])
def test_scope_tensor_agrees_with_mergekit_and_peft(density):
    pivot, sources = random_models()
    merged = ties(pivot, sources, density=density)
    tv = [source - pivot for source in sources]
    peft = pivot + merge_utils.ties(tv, torch.ones(3), density)
    # 600 * 0.999 is 599.4: int() of theirs and round() of ours agree here
    assert torch.allclose(merged, mergekit_ties(pivot, sources, density=density), atol=1e-6)
    assert torch.allclose(merged, peft, atol=1e-6)


def test_sign_election_is_unweighted_unlike_mergekit():
    # task vectors 3 and -2: unweighted + wins; with weights 1 and 2 it is 3 - 4, so - wins
    pivot, sources = torch.tensor([0.0]), [torch.tensor([3.0]), torch.tensor([-2.0])]
    assert ties(pivot, sources).tolist() == [3.0]
    mergekit_merged = mergekit_ties(pivot, sources, density=1.0, weight=[1.0, 2.0])
    assert mergekit_merged.tolist() == [-2.0]


def test_zero_sum_elects_no_sign_unlike_mergekit_and_peft():
    pivot, sources = torch.tensor([1.0]), [torch.tensor([3.0]), torch.tensor([-1.0])]
    assert ties(pivot, sources).tolist() == [1.0]
    assert mergekit_ties(pivot, sources, density=1.0).tolist() == [3.0]
    tv = [source - pivot for source in sources]
    with pytest.warns(UserWarning, match="no pruning"):
        assert merge_utils.ties(tv, torch.ones(2), 1.0).tolist() == [2.0]


def test_keep_all_exceeds_the_density_of_a_bfloat16_model():
    rng = torch.Generator().manual_seed(0)
    pivot = (0.02 * torch.randn(50_000, generator=rng)).bfloat16()
    source = (pivot.float() + 1e-4 * torch.randn(50_000, generator=rng)).bfloat16()
    trim = {"density": 0.2, "scope": "model"}
    tuned = models_of({"w": pivot}, {"w": source})
    exact = prepare(tuned, trim_ties="exact", **trim).diagnostics()
    keep_all = prepare(tuned, trim_ties="keep_all", **trim).diagnostics()
    assert exact["share_kept"] == [0.2]
    assert keep_all["share_kept"][0] > 0.3


def test_keep_all_equals_the_authors_code():
    # int(6 * 0.4) = 2, kthvalue(6 - 2) = 1: everything of at least 1 stays, five values of six
    tv = torch.tensor([2.0, 1.0, -1.0, 1.0, 0.5, 3.0])
    assert ties(torch.zeros(6), [tv], density=0.4).tolist() == [2, 0, 0, 0, 0, 3]
    kept = ties(torch.zeros(6), [tv], density=0.4, trim_ties="keep_all")
    assert kept.tolist() == [2, 1, -1, 1, 0, 3]


def test_diagnostics_have_threshold_and_share_per_source():
    pivot = {"a": torch.zeros(2), "b": torch.zeros(2)}
    first = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([2.0, -3.0])}
    same = {"a": torch.zeros(2), "b": torch.zeros(2)}
    trim = {"density": 0.5, "scope": "model", "trim_ties": "exact"}
    diagnostics = prepare(models_of(pivot, first, same), **trim).diagnostics()
    assert diagnostics == {"threshold": [3.0, 0.0], "share_kept": [0.5, 0.0]}


def test_density_rounding_to_zero_returns_the_pivot():
    pivot, source = {"a": torch.zeros(4)}, {"a": torch.ones(4)}
    assert merge_model(pivot, source, density=0.1)["a"].tolist() == [0.0] * 4
    trim = {"density": 0.1, "scope": "model", "trim_ties": "exact"}
    diagnostics = prepare(models_of(pivot, source), **trim).diagnostics()
    assert diagnostics == {"threshold": [None], "share_kept": [0.0]}


def test_scope_tensor_needs_no_preparation():
    tuned = models_of({"a": torch.zeros(2)}, {"a": torch.ones(2)})
    prepared = prepare(tuned, density=0.5, scope="tensor", trim_ties="exact")
    assert (tuned.pivot.n_opened, prepared.diagnostics()) == (0, {})


def test_equal_magnitudes_are_kept_by_global_index():
    # all magnitudes equal, three of four stay: the first 60,000 of 80,000
    merged = ties(torch.zeros(80_000), [torch.ones(80_000)], density=0.75)
    assert merged.nonzero().flatten().tolist() == list(range(60_000))


def test_one_untrimmed_source_is_returned_bit_identical():
    pivot, sources = random_models((300, 200), n_sources=1)
    assert torch.equal(ties(pivot, sources), sources[0])
    assert torch.equal(
        merge_model({"w": pivot}, {"w": sources[0]}, density=1.0)["w"], sources[0]
    )


def test_equal_sources_are_returned_to_the_last_bit():
    pivot, sources = random_models(n_sources=1)
    assert torch.equal(ties(pivot, sources * 3), sources[0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        ({"lam": float("inf")}, "lam must be a finite number, got inf"),
        ({"scope": "layer"}, "scope must be one of model, tensor, got 'layer'"),
        ({"trim_ties": "all"}, "trim_ties must be one of exact, keep_all, got 'all'"),
    ],
)
def test_invalid_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ties([0.0], [[1.0]], **bad)
