"""Binding of methods: functions found by name, signatures and hyper-parameters checked."""

import functools
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import baselines
from seme.binding import (
    bind_method,
    check_method,
    hyper_parameter_names,
    merge_function,
    method_settings,
    prepare,
)
from seme.checks import check_finite
from seme.interface import Site, checked_by, prepared_by, takes, whole_tensor
from seme.whole_tensor import whole_names


class Prepared:
    def __init__(self, *facts):
        self.facts = facts

    def at(self, _tensor):
        return None

    def diagnostics(self):
        return {}


def mean(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    return torch.stack(tuple(sources)).mean(dim=0)


def step(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    return pivot + lam * (sources[0] - pivot)


def double(models, /, *, rho, lam):
    return Prepared(models, 2 * rho + lam)


def check(*, lam, weights, n_sources):
    check_finite("lam", lam)
    if len(weights) != n_sources:
        raise ValueError(f"expected {n_sources} weights, got {len(weights)}")


@prepared_by(double)
@checked_by(check)
@takes(min_sources=1, max_sources=2)
def declared(
    pivot: Tensor, _sources: Sequence[Tensor], _site: Site, /, *, lam: float, weights
) -> Tensor:
    return pivot * lam * sum(weights)


GOOD = {"lam": 1.0, "weights": [1.0], "rho": 3.0}


def settings(pivot, _sources, _site, /, *, density: float, lam: float): ...


def bound(function, **settings):
    return functools.partial(function, **settings)


def test_undecorated_method_takes_any_number_of_sources():
    check_method(bound(mean), 100)
    with pytest.raises(ValueError, match=r"mean merges at least 1 source into .*, got 0"):
        check_method(bound(mean), 0)


def test_merge_and_preparation_get_the_parameters_they_name():
    method = bound(declared, **GOOD)
    assert hyper_parameter_names(method) == {"lam", "rho", "weights"}
    assert prepare(method, "models").facts == ("models", 7.0)
    merged = merge_function(method)(torch.ones(2), [], Site(name="a"))
    assert merged.tolist() == [1.0, 1.0]
    assert prepare(bound(mean), "models") is None


def test_preparation_without_at_and_diagnostics_is_refused():
    method = prepared_by(lambda models, /: models)(lambda pivot, _sources, _site, /: pivot)
    with pytest.raises(ValueError, match=r"at\(tensor\) and diagnostics\(\), got 'models'"):
        prepare(bound(method), "models")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (bound(settings, densty=1, lam=1), r"densty.* density, lam; did you mean density\?"),
        (
            bound(settings, density=1, lam=1, x=2),
            "no parameter x, only density, lam; is it of a variant",
        ),
        (bound(settings, lam=1), "needs density as well; it takes density, lam"),
        (bound(mean, lam=1), "no parameter lam, only none"),
        (bound(declared, lam=1.0, weights=[1.0]), "needs rho as well"),
        (functools.partial(step, torch.ones(1), lam=1.0), "only keyword parameters"),
    ],
)
def test_unknown_or_missing_parameters_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_method(method, 1)


@pytest.mark.parametrize(
    ("merge", "got"),
    [
        (lambda pivot, _sources: pivot, r"\(pivot, _sources\)"),
        (lambda pivot, _a, _b, lam: pivot * lam, r"\(pivot, _a, _b, lam\)"),
        (lambda pivot, _a, _b, **_lam: pivot, r"\(pivot, _a, _b, \*\*_lam\)"),
        (prepared_by(lambda models, _r: models)(lambda *_models: None), r"\(models, _r\)"),
        (checked_by(lambda lam: lam)(lambda *_models, lam: lam), r"\(lam\)"),
        (checked_by(lambda **lam: lam)(lambda *_models, lam: lam), r"\(\*\*lam\)"),
    ],
)
def test_other_signatures_are_refused_with_the_expected_one(merge, got):
    message = rf"must have the signature \(.*\*, \.\.\.\), .* got {got}$"
    with pytest.raises(ValueError, match=message):
        check_method(bound(merge, lam=1.0), 1)


@pytest.mark.parametrize(
    ("changed", "n_sources", "message"),
    [
        ({"lam": float("inf")}, 1, "lam must be a finite number, got inf"),
        ({"weights": [1.0, 2.0]}, 1, "expected 1 weights, got 2"),
        ({}, 2, "expected 2 weights, got 1"),
        ({}, 3, r"declared merges 1 to 2 sources into the pivot, got 3"),
        ({"rho": float("nan")}, 1, "rho must be finite, got nan"),
        ({"rho": [1.0, float("-inf")]}, 1, "rho must be finite, got -inf"),
        ({"rho": {"a": float("inf")}}, 1, "rho.a must be finite, got inf"),
    ],
)
def test_out_of_range_values_and_source_counts_are_refused(changed, n_sources, message):
    check_method(bound(declared, **GOOD), 1)
    with pytest.raises(ValueError, match=message):
        check_method(bound(declared, **GOOD | changed), n_sources)


def test_check_of_an_unknown_parameter_is_refused():
    @checked_by(check)
    def light(pivot, _sources, _site, /, *, lam):
        return pivot * lam

    with pytest.raises(ValueError, match=r"the check of .*light names weights, which"):
        check_method(bound(light, lam=1.0), 1)


def test_exact_source_count_is_in_the_error():
    pair = takes(min_sources=2, max_sources=2)(lambda pivot, _sources, _site, /: pivot)
    with pytest.raises(ValueError, match="exactly 2 sources into the pivot, got 1"):
        check_method(bound(pair), 1)


def test_method_settings_flattens_nested_settings():
    method = bound(settings, lam=(1, 2.5), density={"a": None})
    check_method(method, 1)
    assert method_settings(method) == {"density.a": None, "lam": [1, 2.5]}


def test_setting_not_representable_in_json_is_refused():
    with pytest.raises(ValueError, match="lam must be a number, text, list or mapping, got"):
        method_settings(bound(step, lam=torch.ones(1)))


def test_only_methods_of_seme_and_baselines_are_bound():
    method = bind_method({"_target_": "baselines.slerp.merge", "_partial_": True, "t": 0.5})
    assert (method.func.__name__, method.keywords) == ("merge", {"t": 0.5})
    for target in ("os.system", "baselines.slerp.marge", "baselines.slurp.merge"):
        with pytest.raises(ValueError, match=target):
            bind_method({"_target_": target})


@pytest.mark.parametrize(
    "target", ["baselines.slerp", "baselines.ties.ModelTrim", "baselines.", "baselines..merge"]
)
def test_target_that_is_no_function_is_refused(target):
    with pytest.raises(ValueError, match=f"the method's _target_ {target} does not exist"):
        bind_method({"_target_": target})


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write the module ``baselines.mine``; returns a function that binds its ``merge``."""
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def bind(text):
        (tmp_path / "mine.py").write_text(text)
        return bind_method({"_target_": "baselines.mine.merge", "_partial_": True})

    yield bind
    sys.modules.pop("baselines.mine", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from baselines.slerp import merge\n", r"is defined in baselines\.slerp: give it by"),
        ("def merge(\n", r"cannot be imported: SyntaxError: .*mine\.py, line 1"),
        ("x = 1\nx.y\n", r"AttributeError: .* \(line 2 of .*mine\.py\)$"),
        ("import slerpp\n", "does not exist: No module named 'slerpp'"),
        ("class merge: pass\n", "is no function: .* got <class"),
    ],
)
def test_module_that_cannot_be_used_is_named(mine, text, message):
    with pytest.raises(ValueError, match=message):
        mine(text)


def test_choice_of_whole_tensors_gets_the_parameters_it_names():
    def at_least(_name, shape, /, *, rows):
        return len(shape) == 2 and shape[0] >= rows

    @whole_tensor(temporaries=0, choice=at_least)
    def light(pivot, _sources, _site, /, *, lam):
        return pivot * lam

    method, shapes = bound(light, lam=1.0, rows=3), {"a": (2, 9), "b": (3, 1), "c": (4,)}
    check_method(method, 1)
    assert hyper_parameter_names(method) == {"lam", "rows"}
    assert whole_names(method, shapes) == ("b",)
    assert whole_names(bound(light, lam=1.0, rows=1), shapes) == ("a", "b")
    assert whole_names(bound(mean), shapes) == ()
    assert set(merge_function(method).keywords) == {"lam"}
    with pytest.raises(ValueError, match="needs rows as well; it takes lam, rows"):
        check_method(bound(light, lam=1.0), 1)
