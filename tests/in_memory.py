"""Models made of tensors, and methods run on them block by block."""

from dataclasses import replace
from functools import partial

import torch

from seme.binding import check_method, merge_function, prepare
from seme.checkpoint.protocol import Held
from seme.interface import Site
from seme.streaming import Models
from seme.whole_tensor import merge_whole, row_length, whole_names


def random_models(shape=(20, 30), n_sources=3, seed=0):
    """A pivot and sources near it."""
    rng = torch.Generator().manual_seed(seed)
    pivot = torch.randn(shape, generator=rng)
    return pivot, [pivot + 0.01 * torch.randn(shape, generator=rng) for _ in range(n_sources)]


class InMemory:
    """A checkpoint made of tensors."""

    config = {}  # noqa: RUF012

    def __init__(self, tensors):
        self.tensors = tensors
        self.names = tuple(sorted(tensors))
        self.n_opened = 0

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def dtype(self, name):
        return self.tensors[name].dtype

    def read(self, name):
        return self.tensors[name]

    def opened(self, name):
        self.n_opened += 1
        return Held(self.tensors[name])


def models_of(pivot, *sources, **how):
    """Mappings of names to tensors as models."""
    pivot, *sources = (InMemory(tensors) for tensors in (pivot, *sources))
    return Models(
        pivot=pivot,
        sources=tuple(sources),
        merged_names=pivot.names,
        device=torch.device("cpu"),
        **how,
    )


def merge_models(method, pivot, *sources, seed=0, how=None, **parameters):
    """Check a method, run its preparation, merge every tensor of mappings of names to tensors.

    Parameters that the method has not are refused, as the engine refuses them.
    """
    bound = partial(method, **parameters)
    check_method(bound, len(sources))
    models = models_of(pivot, *sources, **(how or {}))
    prepared = prepare(bound, models)
    merged = {}
    for name in pivot:
        n_columns = row_length(bound, models.pivot.shape(name))
        tensor = models.open(name, row_length=n_columns)
        outcome = None if prepared is None else prepared.at(tensor)
        site = Site(name=name, seed=seed, prepared=outcome, row_length=n_columns)
        pieces = _pieces(bound, tensor, site)
        flat = torch.cat(pieces) if pieces else torch.empty(0)
        merged[name] = flat.view(pivot[name].shape)
    return merged


def _pieces(method, tensor, site):
    """The merged tensor, flat, in blocks."""
    merge = merge_function(method)
    if whole_names(method, {tensor.name: tuple(tensor.shape)}):
        return merge_whole(merge, tensor, site, lambda _block, merged: merged)

    def merge_block(block):
        return merge(block.pivot, block.sources, replace(site, start=block.start))

    return tensor.map(merge_block)


def merge_one(method, pivot, sources, **options):
    """The same for models of a single tensor, called w."""
    return merge_models(method, {"w": pivot}, *({"w": s} for s in sources), **options)["w"]
