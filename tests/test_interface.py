"""Hyper-parameters against a method's signature, before anything is read."""

import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from seme.binding import check_method, method_settings
from seme.interface import Site, prepared_by


def mean(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    return torch.stack(tuple(sources)).mean(dim=0)


def step(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    return pivot + lam * (sources[0] - pivot)


def asks_too_much(_models, /, *, lam, rho):
    return lam * rho


@prepared_by(asks_too_much)
def misprepared(
    pivot: Tensor, _sources: Sequence[Tensor], _site: Site, /, *, lam: float
) -> Tensor:
    return pivot * lam


def settings(*, density: float, lam: float) -> None: ...


def bound(function, **settings):
    return functools.partial(function, **settings)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            bound(settings, densty=1, lam=1),
            r"no parameter densty, only density, lam; did you mean density\?",
        ),
        (bound(settings, density=1, lam=1, x=2), "no parameter x, only density, lam$"),
        (bound(settings, lam=1), "needs density as well; it takes density, lam"),
        (bound(mean, lam=1), "no parameter lam, only none"),
        (
            functools.partial(step, torch.ones(1), lam=1.0),
            "only keyword parameters can be bound",
        ),
        (
            bound(misprepared, lam=1.0),
            "preparation of .*misprepared takes rho, which it has not",
        ),
    ],
)
def test_a_wrongly_bound_method_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_method(method)


def test_a_rightly_bound_method_passes_and_lists_its_settings():
    method = bound(settings, lam=(1, 2.5), density={"a": None})
    check_method(method)
    assert method_settings(method) == {"density": {"a": None}, "lam": [1, 2.5]}


def test_a_setting_that_json_cannot_hold_is_named():
    with pytest.raises(ValueError, match="lam must be a number, text, list or mapping, got"):
        method_settings(bound(step, lam=torch.ones(1)))
