"""Layer swapping: outer layers of a language expert, middle layers of a task expert.

Bandarkar et al., 2024, https://arxiv.org/abs/2410.01335, section 4.2: bottom and top layers of
the first source, the layers between of the second, transition layers of both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seme.checks import check_whole
from seme.elementwise import weighted_mean
from seme.interface import Prepared, Site, checked_by, prepared_by, takes
from seme.streaming import Models, OpenTensor

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The first number in a tensor's name, as in ``model.layers.3.mlp.up_proj.weight``."""
_PAPER_LAYERS = 32
_PAPER = {"bottom": 5, "top": 2, "transition": 1}
"""The paper's default for 32 layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Share of the first source in every layer."""

    shares: tuple[float, ...]

    def at(self, tensor: OpenTensor) -> float:
        """Return 1, the mean's 0.5 or 0; outside the layers 1."""
        layer = layer_of(tensor.name)
        return 1.0 if layer is None else self.shares[layer]

    def diagnostics(self) -> Mapping[str, Any]:
        """Return the first source's share in every layer, from the bottom."""
        return {"first_source": list(self.shares)}


def prepare(
    models: Models, /, *, bottom: int | None, top: int | None, transition: int | None
) -> Prepared:
    """Assign the layers, by the names of the tensors; no weights are read.

    Args:
        models: The pivot and the two sources.
        bottom: Number of layers of the first source at the bottom, at least 0; None is the
            paper's 5 of 32, in proportion, rounded. Likewise the next two.
        top: Number of its layers at the top; the paper's 2 of 32.
        transition: Number of layers of both at either end; the paper's 1 of 32.

    Raises:
        ValueError: If the model has fewer layers.
    """
    numbers = [layer_of(name) for name in models.pivot.names]
    n_layers = 1 + max((n for n in numbers if n is not None), default=-1)
    given = {"bottom": bottom, "top": top, "transition": transition}
    counts = {
        key: round(_PAPER[key] * n_layers / _PAPER_LAYERS) if value is None else value
        for key, value in given.items()
    }
    return Swap(shares=shares_of_first(n_layers, **counts))


def check(*, bottom: int | None, top: int | None, transition: int | None) -> None:
    """Demand whole numbers or None."""
    for name, value in (("bottom", bottom), ("top", top), ("transition", transition)):
        if value is not None:
            check_whole(name, value, least=0)


@prepared_by(prepare)
@takes(min_sources=2, max_sources=2, order_matters=True)
@checked_by(check)
def merge(_pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor:
    """Take a tensor from one of two sources, or average them.

    The pivot gives names and configuration only. Embeddings, final norm and output head are the
    first source's.

    Args:
        sources: float32 weights of the language expert and of the task expert.
        site: Carries the first source's share, see :class:`Swap`.

    Returns:
        float32 weights of their shape.
    """
    share: float = site.prepared
    if share in (0.0, 1.0):
        return sources[0 if share else 1].clone()
    return weighted_mean(sources, weights=[share, 1 - share], divisor=1.0)


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to; None outside the layers."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def shares_of_first(
    n_layers: int, *, bottom: int, top: int, transition: int
) -> tuple[float, ...]:
    """Return the first source's share in every layer: 1, 0.5 in transitions, 0 in the middle.

    Raises:
        ValueError: If the parts do not fit into the layers.
    """
    if bottom + top + 2 * transition > n_layers:
        raise ValueError(
            f"bottom {bottom}, top {top} and two transitions of {transition} must fit into the "
            f"{n_layers} layers of the model: lower method.bottom, method.top or "
            "method.transition"
        )
    middle = n_layers - bottom - top - 2 * transition
    parts = [(bottom, 1.0), (transition, 0.5), (middle, 0.0), (transition, 0.5), (top, 1.0)]
    return tuple(share for count, share in parts for _ in range(count))
