"""What a LoRA adapter's file holds: each tensor matched with the base's weight it changes."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checkpoint.lora_config import LoraSettings
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import StoredTensor

_BLOCK = 1 << 16
"""Elements computed at a time: 512 kB in float64 stay in a core's cache (ours, measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The low-rank change of one weight."""

    down: Tensor
    """The paper's A, (rank, inputs)."""
    up: Tensor
    """The paper's B, (outputs, rank)."""
    magnitude: Tensor | None
    """DoRA's m, the length of every output's row, (outputs,); None without DoRA."""
    scaling: float
    transposed: bool
    """Whether the weight is stored (inputs, outputs)."""


class AdaptedTensor:
    """A weight with its change; implements :class:`seme.checkpoint.protocol.Readable`.

    Computed in float64 and rounded once to float32: neither the factors' dtype nor the base's
    takes anything from the change (PEFT rounds B A to the factors' dtype first). A range is cut
    out of blocks of rows that begin at multiples of one number: so the bits of an element depend
    neither on the range it is asked for in, nor on the number of threads.
    """

    def __init__(self, weight: Readable, factors: Factors) -> None:
        """Prepare the factors; nothing of the weight is read.

        Args:
            weight: The base's, (outputs, inputs), or (inputs, outputs) where ``transposed``,
                in any floating-point dtype.
            factors: Its change.
        """
        up, down = factors.up, factors.down
        self._weight = weight
        self._left, right = (down.T, up.T) if factors.transposed else (up, down)
        self._right = right.double() * factors.scaling
        self._magnitude = None if factors.magnitude is None else factors.magnitude.double()
        self._transposed = factors.transposed
        n_columns = self.shape[1]
        self._block = max(_BLOCK // max(n_columns, 1), 1) * max(n_columns, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's, as it is stored."""
        return self._left.shape[0], self._right.shape[1]

    def read(self, start: int, stop: int) -> Tensor:
        """Compute the elements [start, stop) of the flat tensor, 1-D, in float32."""
        first = start // self._block * self._block
        last = min(-(-stop // self._block) * self._block, math.prod(self.shape))
        weight = self._weight.read(first, last)
        adapted = torch.empty(stop - start, dtype=torch.float32)
        for begin in range(first, last, self._block):
            low, high = max(begin, start), min(begin + self._block, stop)
            end = begin + self._block
            block = self._changed(weight[begin - first : end - first], begin).view(-1)
            adapted[low - start : high - start] = block[low - begin : high - begin]
        return adapted

    def _changed(self, weight: Tensor, begin: int) -> Tensor:
        """Change one block of rows, given flat and by the index of its first element."""
        block = self._sum(weight, begin)
        if self._magnitude is not None and self._transposed:
            block *= self._magnitude / self._lengths_of_columns
        elif self._magnitude is not None:
            row = begin // self.shape[1]
            lengths = _squares(block, axis=1).sqrt()
            block *= (self._magnitude[row : row + len(block)] / lengths).unsqueeze(1)
        return block

    def _sum(self, weight: Tensor, begin: int) -> Tensor:
        """Return W + s B A for one block of rows, (rows, columns) in float64."""
        rows = weight.view(-1, self.shape[1])
        row = begin // self.shape[1]
        return rows.double() + self._left[row : row + len(rows)].double() @ self._right

    @functools.cached_property
    def _lengths_of_columns(self) -> Tensor:
        """Measure what DoRA scales where outputs are columns: a pass over the whole weight."""
        squares = torch.zeros(self.shape[1], dtype=torch.float64)
        numel = math.prod(self.shape)
        for begin in range(0, numel, self._block):
            weight = self._weight.read(begin, min(begin + self._block, numel))
            squares += _squares(self._sum(weight, begin), axis=0)
        return squares.sqrt()


def _squares(block: Tensor, *, axis: int) -> Tensor:
    """Sum squares along an axis; with numpy, since torch's sums depend on the thread count."""
    return torch.from_numpy(np.square(block.numpy()).sum(axis=axis))


_Shape = tuple[int, ...]

_PREFIX = "base_model.model."
_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_embedding_A": "embedding_down",
    ".lora_embedding_B": "embedding_up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFactors:
    """The factors of one weight, on disk."""

    down: StoredTensor
    up: StoredTensor
    magnitude: StoredTensor | None
    scaling: float
    transposed: bool
    is_embedding: bool

    @property
    def is_square(self) -> bool:
        """Whether the shape of the weight does not tell how it is stored."""
        return self.down.spec.shape[1] == self.up.spec.shape[0]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        stored = (self.down, self.up, self.magnitude)
        return sum(part.spec.nbytes for part in stored if part is not None)

    def read(self) -> Factors:
        """Read the factors."""
        return Factors(
            down=self.down.read(),
            up=self.up.read(),
            magnitude=None if self.magnitude is None else self.magnitude.read(),
            scaling=self.scaling,
            transposed=self.transposed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an adapter does to its base, by the base's tensor names."""

    replaced: Mapping[str, StoredTensor]
    """Weights trained in full (``modules_to_save``), or saved beside the factors."""
    adapted: Mapping[str, StoredFactors]


def changes_of(
    base: Checkpoint, settings: LoraSettings, stored: Mapping[str, StoredTensor]
) -> Changes:
    """Sort an adapter's tensors by what they change.

    Args:
        base: The model the adapter stands on.
        settings: What the adapter's configuration says.
        stored: The adapter's tensors by PEFT's names.

    Raises:
        ValueError: If a tensor has no place in the base, or contradicts the settings.
    """
    replaced: dict[str, StoredTensor] = {}
    parts: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in stored.items():
        module, part = _place_of(key)
        if part is None:
            name = _name_in(base, module, key)
            if tensor.spec.shape != base.shape(name):
                raise ValueError(
                    f"{key} has shape {tensor.spec.shape}, but {name} of the base has "
                    f"{base.shape(name)}: resize the base as for the adapter's training"
                )
            replaced[name] = tensor
        else:
            parts.setdefault(module, {})[part] = tensor
    adapted: dict[str, StoredFactors] = {}
    for module, found in parts.items():
        name = _name_in(base, f"{module}.weight", module)
        adapted[name] = _factors(settings, module, found, base.shape(name))
    _refuse_tied(base, {*replaced, *adapted})
    _refuse_mixed_layouts(settings, [f for f in adapted.values() if not f.is_embedding])
    return Changes(replaced=replaced, adapted=adapted)


def _place_of(key: str) -> tuple[str, str | None]:
    """Split PEFT's name of a tensor into the module and the part, None for a whole tensor."""
    path = key.removeprefix(_PREFIX)
    if path == key:
        raise ValueError(f"{key} in the adapter should begin with {_PREFIX}: save it with PEFT")
    for ending, part in _PARTS.items():
        if path.endswith(ending):
            return path.removesuffix(ending), part
    if ".lora_" in path:
        raise ValueError(
            f"{key} in the adapter is no part of a LoRA: expected one of {', '.join(_PARTS)}"
        )
    return path.replace(".base_layer.", "."), None


def _name_in(base: Checkpoint, name: str, key: str) -> str:
    """Return the base's name of a weight, which may lack the prefix of the model's body."""
    for candidate in (name, name.partition(".")[2]):
        if candidate in base.names:
            return candidate
    if name.endswith(HEADS):
        _refuse_tied(base, [name])
    raise ValueError(
        f"{key} of the adapter changes {name}, which the base {base.path} has not; is it the "
        "model the adapter was trained on?"
    )


def _factors(
    settings: LoraSettings, module: str, found: Mapping[str, StoredTensor], shape: _Shape
) -> StoredFactors:
    """Put the parts of one module together and check them against settings and base."""
    is_embedding = "embedding_down" in found
    prefix = "embedding_" if is_embedding else ""
    down, up = f"{prefix}down", f"{prefix}up"
    expected = {down, up, *(("magnitude",) if settings.decomposed else ())}
    if found.keys() != expected:
        raise ValueError(
            f"{module} has {sorted(found)} in the adapter, expected {sorted(expected)} with "
            f"use_dora {settings.decomposed}"
        )
    n_outputs, n_inputs = _size_of_change(
        settings.rank_of(module), module, found[down], found[up]
    )
    magnitude = found.get("magnitude")
    if magnitude is not None and magnitude.spec.shape != (n_outputs,):
        raise ValueError(
            f"the magnitude of {module} has shape {magnitude.spec.shape}, expected ({n_outputs},)"
        )
    plain, turned = (n_outputs, n_inputs), (n_inputs, n_outputs)
    if shape != turned and (is_embedding or shape != plain):
        raise ValueError(
            f"the factors of {module} lead from {n_inputs} inputs to {n_outputs} outputs, but "
            f"its weight in the base has shape {shape}"
        )
    turned_round = settings.transposed if plain == turned else shape == turned
    return StoredFactors(
        down=found[down],
        up=found[up],
        magnitude=magnitude,
        scaling=settings.scaling_of(module),
        transposed=is_embedding or turned_round,
        is_embedding=is_embedding,
    )


def _size_of_change(
    rank: int, module: str, down: StoredTensor, up: StoredTensor
) -> tuple[int, int]:
    """Return the number of outputs and inputs of a change whose factors have this rank."""
    match down.spec.shape, up.spec.shape:
        case (inner, n_inputs), (n_outputs, other) if inner == other == rank:
            return n_outputs, n_inputs
    raise ValueError(
        f"the factors of {module} have shapes {down.spec.shape} and {up.spec.shape}, expected "
        f"({rank}, inputs) and (outputs, {rank}) by r and rank_pattern"
    )


def _refuse_tied(base: Checkpoint, changed: Iterable[str]) -> None:
    """Refuse a change of a matrix that is embedding and head in one: it would change both."""
    if any(name.endswith(HEADS) for name in base.names):
        return
    for name in changed:
        if name.endswith((*HEADS, *EMBEDDINGS)):
            raise ValueError(
                f"the adapter changes {name}, but the base's embedding is its head too, and the "
                "adapter changes only one of the two: untie the base first (save "
                "lm_head.weight and set tie_word_embeddings: false)"
            )


def _refuse_mixed_layouts(settings: LoraSettings, linear: Sequence[StoredFactors]) -> None:
    """Refuse square weights where the setting that says how they are stored fails elsewhere."""
    contradicted = any(
        factors.transposed != settings.transposed for factors in linear if not factors.is_square
    )
    if contradicted and any(factors.is_square for factors in linear):
        raise ValueError(
            f"fan_in_fan_out is {settings.transposed}, but some weights of the base are stored "
            "the other way round, so that square ones cannot be told: merge the adapter into its "
            "base with PEFT first"
        )
