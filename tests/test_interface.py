"""Traits of methods, made by decorators."""

import functools

from seme.interface import Traits, checked_by, prepared_by, takes, traits_of, whole_tensor


def prepare(models, /, *, rho):
    return models, rho


def check(*, lam):
    assert lam


def test_undecorated_method_takes_blocks_and_any_number_of_sources():
    assert traits_of(lambda pivot, _sources, _site, /: pivot) == Traits()


def test_decorators_combine_into_traits_of_the_function_and_its_partials():
    @prepared_by(prepare)
    @checked_by(check)
    @takes(min_sources=1, max_sources=2)
    def declared(pivot, _sources, _site, /, *, lam):
        return pivot * lam

    assert traits_of(functools.partial(declared, lam=1.0)) == Traits(
        preparation=prepare, check=check, min_sources=1, max_sources=2
    )


def test_whole_tensor_works_with_and_without_arguments():
    @whole_tensor
    def plain(pivot, _sources, _site, /):
        return pivot

    @whole_tensor(temporaries=0)
    def lean(pivot, _sources, _site, /):
        return pivot

    assert traits_of(plain) == Traits(whole_tensor=True, temporaries=4)
    assert traits_of(lean) == Traits(whole_tensor=True, temporaries=0)
