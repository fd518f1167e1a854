"""The engine: what it refuses, and that nothing is left behind."""

import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from seme.interface import CheckpointMismatchError, Site, prepared_by


def mean(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    return torch.stack(tuple(sources)).mean(dim=0)


class Unreported:
    def at(self, _tensor):
        return 1.0

    def diagnostics(self):
        return None


@prepared_by(lambda _models, /: Unreported())
def fill(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /) -> Tensor:
    return torch.full_like(pivot, site.prepared)


def bound(function, **settings):
    return functools.partial(function, **settings)


@pytest.mark.parametrize("pattern", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(model, merge, pattern):
    pivot = model("p", {"a.weight": [1.0]})
    with pytest.raises(ValueError, match=r"'a\.wieght' matches no tensor.*a\.weight"):
        merge(bound(mean), pivot, pivot, **{pattern: ["a.wieght"]})


def test_excluding_every_tensor_is_refused(model, merge):
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match=r"no tensor of .* is left to merge"):
        merge(bound(mean), pivot, pivot, exclude=["*"])


def test_a_merge_without_sources_is_refused(model, merge):
    with pytest.raises(ValueError, match="at least 1 source into the pivot, got 0"):
        merge(bound(mean), model("p", {"a": [1.0]}))


MISFITS = {
    r"a: shape \(2,\) expected, missing in the source": {"b": [1.0]},
    r"c: shape \(1,\) found, missing in the pivot": {"a": [1.0, 1.0], "b": [1.0], "c": [1.0]},
    r"a: shape \(2,\) expected, \(2, 1\) found": {"a": [[1.0], [1.0]], "b": [1.0]},
    r"b: torch\.float32 expected, torch\.int64 found": {"a": [1.0, 1.0], "b": [1]},
}


@pytest.mark.parametrize("message", MISFITS)
def test_mismatched_source_is_refused_with_its_tensors(model, merge, tmp_path, message):
    pivot, fits = (
        model("p", {"a": [0.0, 0.0], "b": [0.0]}),
        model("s", {"a": [1.0, 1.0], "b": [1.0]}),
    )
    misfit = model("m", MISFITS[message])
    with pytest.raises(
        CheckpointMismatchError, match=rf"source 1 .*/m\).*\n  {message}"
    ) as error:
        merge(bound(mean), pivot, fits, misfit)
    assert "needs sources of the pivot's shape" in str(error.value)
    assert pivot.bytes_read + fits.bytes_read + misfit.bytes_read == 0
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("n_misfits", "rest"), [(5, ""), (9, "\n  and 4 more")])
def test_first_five_mismatches_are_listed(model, merge, n_misfits, rest):
    names = [f"t{i}" for i in range(n_misfits)]
    pivot = model("p", {name: [1.0] for name in names})
    source = model("s", {name: [1.0, 1.0] for name in names})
    with pytest.raises(CheckpointMismatchError, match=r"t0: ") as error:
        merge(bound(mean), pivot, source)
    last = "t4: shape (1,) expected, (2,) found"
    assert str(error.value).endswith(f"{last}{rest}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_source_is_refused_and_leaves_no_files(model, merge, tmp_path, value):
    pivot, sick = model("p", {"a": [1.0], "b": [1.0]}), model("s", {"a": [1.0], "b": [value]})
    with pytest.raises(
        ValueError, match=r"b of source 1 \(.*/s\) holds NaN or an inf"
    ) as error:
        merge(bound(mean), pivot, pivot, sick)
    assert error.value.__notes__ == ["while merging b with shape (1,)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "s"]


def test_non_finite_copied_pivot_tensor_is_refused(model, merge):
    pivot = model("p", {"a": [1.0], "b": [float("nan")]})
    with pytest.raises(ValueError, match=r"b of the pivot \(.*/p\) holds NaN"):
        merge(bound(mean), pivot, pivot, exclude=["b"])


def returns_too_little(pivot, _sources, _site, /):
    return pivot[:1]


def returns_float64(pivot, _sources, _site, /):
    return pivot.double()


def returns_nan(pivot, _sources, _site, /):
    return pivot / 0 * 0


def is_interrupted(pivot, _sources, site, /):
    if site.name == "b":
        raise KeyboardInterrupt("by the user")
    return pivot


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (returns_too_little, ValueError, r"must return a block.s shape, \(2,\), got \(1,\)"),
        (returns_float64, ValueError, r"must return float32, got torch\.float64"),
        (returns_nan, ValueError, "method returned NaN or inf"),
        (is_interrupted, KeyboardInterrupt, "by the user"),
    ],
)
def test_failing_method_leaves_no_folder(model, merge, tmp_path, method, error, message):
    pivot = model("p", {"a": [1.0, 1.0], "b": [1.0, 1.0]})
    with pytest.raises(error, match=message):
        merge(bound(method), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_failing_diagnostics_leave_no_folder(model, merge, tmp_path):
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(TypeError):
        merge(bound(fill), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_overflow_of_the_output_dtype_is_refused(model, merge):
    pivot = model("p", {"a": [1e5]})
    with pytest.raises(ValueError, match=r"too large for torch\.float16") as error:
        merge(bound(mean), pivot, pivot, dtype=torch.float16)
    assert error.value.__notes__ == ["while merging a with shape (1,)"]


def test_existing_destination_is_refused_before_reading(model, merge, tmp_path):
    (tmp_path / "merged").mkdir()
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match="merged already exists"):
        merge(bound(fill), pivot, pivot)
    assert pivot.bytes_read == 0
