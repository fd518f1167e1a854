"""Overrides against the tensors of plain runs with the same values."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import baselines.breadcrumbs
import baselines.della
import baselines.sce
import baselines.slerp
import baselines.task_arithmetic
import baselines.ties
from seme.checkpoint.reader import open_checkpoint
from seme.overrides import parse_overrides
from seme.tensor_methods import bind_overrides, check_parameters
from tests.golden_merges import method_of

ADD = partial(baselines.task_arithmetic.merge, lam=1.0, weights=[1.0, 1.0])
TIES = partial(
    baselines.ties.merge, density=0.5, lam=1.0, scope="tensor", trim_ties="exact"
)  # fmt: skip
SCE = partial(baselines.sce.merge, tau=0.5, lam=1.0, renormalize=False, select="deltas")
CRUMBS = partial(baselines.breadcrumbs.merge, density=0.5, gamma=0.1, lam=1.0)
DELLA = partial(baselines.della.merge, density=0.5, epsilon=0.1, lam=1.0)
SLERP = partial(baselines.slerp.merge, t=0.5)
NAMES = [
    "embed.weight",
    *(f"model.layers.{k}.{part}.weight" for k in range(3) for part in ("attn", "mlp")),
    "head.weight",
]


def tensors(seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(8, 12, generator=rng) for name in NAMES}


@pytest.fixture
def pool(model):
    return [model(f"m{seed}", tensors(seed)) for seed in range(3)]


def values_of(method, overrides, names=NAMES, n_sources=2):
    """The values of one parameter or of all, by tensor."""
    bound = bind_overrides(method, parse_overrides(overrides), names, n_sources)
    return {name: bound.at(name).keywords for name in names}


@pytest.mark.parametrize(
    ("method", "n_sources", "changed"),
    [
        (ADD, 2, {"lam": 0.3}),
        (ADD, 2, {"weights.1": -0.5}),
        (TIES, 2, {"density": 0.2}),
        (TIES, 2, {"density": 0.9, "lam": 0.4}),
        (SCE, 2, {"tau": 0.1}),
        (CRUMBS, 2, {"density": 0.3, "gamma": 0.2}),
        (DELLA, 2, {"epsilon": 0.2}),
        (SLERP, 1, {"t": 0.9}),
    ],
)
def test_overridden_tensors_are_those_of_a_run_with_these_values(
    pool, merge, method, n_sources, changed
):
    pivot, *sources = pool[: 1 + n_sources]
    overrides = parse_overrides([{"match": "*.mlp.*", **changed}])
    mixed, _ = merge(method, pivot, *sources, overrides=overrides)
    plain, _ = merge(method, pivot, *sources, folder="plain")
    keywords = dict(method.keywords)
    for key, value in changed.items():
        keywords |= {"weights": [1.0, value]} if key == "weights.1" else {key: value}
    other, _ = merge(partial(method.func, **keywords), pivot, *sources, folder="other")
    for name in NAMES:
        expected = other if ".mlp." in name else plain
        assert torch.equal(mixed[name], expected[name]), name
        assert not torch.equal(plain[name], other[name])


def test_no_override_is_a_plain_run(pool, merge):
    same = parse_overrides([{"match": "*", "lam": 1.0}])
    plain, report = merge(TIES, *pool)
    merged, again = merge(TIES, *pool, overrides=same, folder="again")
    assert all(torch.equal(merged[name], plain[name]) for name in NAMES)
    assert again.diagnostics == report.diagnostics


def test_a_threshold_over_the_model_is_one_over_the_tensors_with_its_values(pool, merge):
    ties = partial(TIES.func, **{**TIES.keywords, "scope": "model"})
    dense = partial(ties.func, **{**ties.keywords, "density": 0.9})
    overrides = parse_overrides([{"match": "*.mlp.*", "density": 0.9}, {"lam": 0.5}])
    mixed, report = merge(ties, *pool, overrides=overrides)
    half = {"lam": 0.5}
    mlp, _ = merge(
        partial(dense.func, **dense.keywords | half), *pool, include=("*.mlp.*",), folder="a"
    )
    rest, _ = merge(
        partial(ties.func, **ties.keywords | half), *pool, exclude=("*.mlp.*",), folder="b"
    )
    for name in NAMES:
        assert torch.equal(mixed[name], (mlp if ".mlp." in name else rest)[name])
    assert [(part["values"]["density"], part["n_tensors"]) for part in
            report.diagnostics["parts"]] == [(0.5, 5), (0.9, 3)]  # fmt: skip


def test_later_entries_override_earlier_ones_parameter_by_parameter():
    found = values_of(ADD, [{"match": "*.mlp.*", "lam": 2, "weights.0": 3}, {"lam": 4}])
    assert found["model.layers.0.mlp.weight"] == {"lam": 4, "weights": [3, 1.0]}
    assert found["head.weight"] == {"lam": 4, "weights": [1.0, 1.0]}


def test_gradient_goes_from_the_first_to_the_last_layer_and_leaves_the_rest():
    found = values_of(ADD, [{"match": "*", "lam": {"gradient": [0, 0.2, 1]}}])
    assert [found[f"model.layers.{k}.mlp.weight"]["lam"] for k in range(3)] == [0, 0.2, 1]
    assert found["head.weight"]["lam"] == found["embed.weight"]["lam"] == 1.0


def test_gradient_is_interpolated_between_its_points():
    names = [f"h.{k}.w" for k in range(5)]
    found = values_of(ADD, [{"lam": {"gradient": [0, 1, 3]}}], names)
    assert [found[name]["lam"] for name in names] == [0, 0.5, 1, 2, 3]


def test_gradient_over_a_range_of_layers_and_of_one_layer():
    names = [f"h.{k}.w" for k in range(5)]
    found = values_of(ADD, [{"layers": [1, 4], "lam": {"gradient": [0, 1]}}], names)
    assert [found[name]["lam"] for name in names] == [1.0, 0, 0.5, 1, 1.0]
    one = values_of(ADD, [{"layers": [2, 3], "lam": {"gradient": [7, 8]}}], names)
    assert one["h.2.w"]["lam"] == 8


def test_gradients_of_a_list_are_taken_one_by_one():
    found = values_of(ADD, [{"weights": [{"gradient": [0, 1]}, 0.5]}])
    assert found["model.layers.1.mlp.weight"]["weights"] == [0.5, 0.5]


def test_stacks_of_layers_have_their_own_depth():
    names = ["a.0.w", "a.1.w", "a.2.w", "b.0.w", "b.1.w"]
    found = values_of(ADD, [{"lam": {"gradient": [0, 1]}}], names)
    assert [found[name]["lam"] for name in names] == [0, 0.5, 1, 0, 1]


def test_described_counts_the_tensors_of_each_set_of_values():
    overrides = parse_overrides([{"match": "*.mlp.*", "lam": 0.3}, {"match": "h*", "lam": 2}])
    assert bind_overrides(ADD, overrides, NAMES, 2).described() == [
        "3 tensors: lam=0.3",
        "1 tensors: lam=2",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"match": "*.moe.*", "lam": 1}, "match must name a tensor that is merged.* embed.weight"),
        ({"layers": [0, 4], "lam": 1}, r"layers must be within the model's 3, at most \[0, 3\]"),
        ({"match": "head*", "lam": {"gradient": [0, 1]}}, "no tensor that matches is in one"),
        ({"match": "*", "lam": "x"}, "give embed.weight another value: lam must be a finite"),
        ({"lam": None}, "overrides give embed.weight another value: lam must be a finite"),
        ({"weights": [1]}, "weights must hold one number per source: expected 2, got 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_models_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        values_of(ADD, [override])


def test_every_layers_value_is_checked():
    with pytest.raises(
        ValueError, match=r"layers\.2\.attn.* density must be in \(0, 1\], got 2"
    ):
        values_of(TIES, [{"density": {"gradient": [0.5, 1, 2]}}])


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        (ADD, {"lamb": 1}, "no parameter lamb, only lam, weights; did you mean lam"),
        (ADD, {"mach": "*", "lam": 1}, "no parameter mach, only lam, weights; did you mean match"),
        (ADD, {"weights.2": 1}, r"weights\.2 needs a list with an item 2 .*got \[1\.0, 1\.0\]"),
        (ADD, {"lam.0": 1}, r"lam\.0 needs a list"),
        (ADD, {"weights": {"gradient": [0, 1]}}, "a gradient is of a parameter that is a number"),
        (TIES, {"scope": {"gradient": [0, 1]}}, "a number, and scope is 'tensor'"),
        (method_of("seme"), {"tau": 0.5}, "tau must be one for all tensors"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_method_is_refused_without_a_model(method, override, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(method, parse_overrides([override]))


def test_nothing_is_read_or_written_when_a_value_is_out_of_range(pool, merge, tmp_path):
    overrides = parse_overrides([{"match": "*", "density": 2}])
    before = [checkpoint.bytes_read for checkpoint in pool]
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 2"):
        merge(TIES, *pool, overrides=overrides)
    assert [checkpoint.bytes_read for checkpoint in pool] == before
    assert not (tmp_path / "merged").exists()


def test_seme_may_scale_tensors_differently(make_llama, merge, tmp_path):
    base, tuned = (make_llama(tmp_path / name, seed=0) for name in ("base", "tuned"))
    shifted = load_file(tuned / "model.safetensors")
    shifted = {
        name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in shifted.items()
    }
    save_file(shifted, tuned / "model.safetensors", {"format": "pt"})
    pivot, source = (open_checkpoint(folder, root=tmp_path) for folder in (base, tuned))
    overrides = parse_overrides([{"match": "*.mlp.*", "lam": 0.0}])
    merged, _ = merge(method_of("seme"), pivot, source, overrides=overrides)
    projections = [name for name in pivot.names if name.endswith("_proj.weight")]
    moved = [name for name in projections if not torch.equal(merged[name], pivot.read(name))]
    assert moved == [name for name in projections if ".mlp." not in name]
