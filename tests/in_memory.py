"""Models made of tensors, and methods run on them block by block as the engine runs them."""

import inspect
from functools import partial

import torch

from seme.binding import prepare
from seme.checkpoint.protocol import Held
from seme.interface import Site
from seme.streaming import Models


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
    """Run a method's preparation, then merge every tensor of mappings of names to tensors."""
    asked = inspect.signature(method).parameters
    bound = partial(method, **{k: v for k, v in parameters.items() if k in asked})
    assert set(parameters) <= set(asked), sorted(set(parameters) - set(asked))
    models = models_of(pivot, *sources, **(how or {}))
    prepared = prepare(bound, models)
    merged = {}
    for name in pivot:
        tensor = models.open(name)
        found = None if prepared is None else prepared.at(tensor)

        def merge(block, name=name, found=found):
            site = Site(name=name, seed=seed, prepared=found, start=block.start)
            return bound(block.pivot, block.sources, site)

        pieces = tensor.map(merge)
        flat = torch.cat(pieces) if pieces else torch.empty(0)
        merged[name] = flat.view(pivot[name].shape)
    return merged


def merge_one(method, pivot, sources, **options):
    """The same for models of a single tensor, called w."""
    return merge_models(method, {"w": pivot}, *({"w": s} for s in sources), **options)["w"]
