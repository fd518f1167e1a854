"""LoRA tensors: an adapter's file matched with the base's weights, and W + s B A itself.

Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1: W + s B A, with the scaling s.
Liu et al., 2024, https://arxiv.org/abs/2402.09353, equation 5: DoRA, every output's row of that
sum scaled to a learned length.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checkpoint.lora_config import LoraSettings
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint, is_tied
from seme.checkpoint.safetensors_file import StoredTensor

_BLOCK = 1 << 16
"""Elements computed at a time: 512 kB in float64 stay in a core's cache (measured)."""
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
    """True if the weight is stored (inputs, outputs); never with DoRA."""


class AdaptedTensor:
    """A weight with its change; implements :class:`seme.checkpoint.protocol.Readable`.

    Computed in float64 and rounded once to float32, so that no part of the change is lost to
    the dtype of the factors or of the base (PEFT rounds B A to the factors' dtype first).
    Blocks of rows begin at multiples of a fixed number, so that the bits of an element depend
    neither on the range that is read nor on the number of threads.
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
        n_columns = max(self.shape[1], 1)
        self._block = max(_BLOCK // n_columns, 1) * n_columns

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight as stored."""
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
        """Apply the change to a flat block of whole rows, the first element at ``begin``.

        Returns:
            (rows, columns) in float64.
        """
        rows = weight.view(-1, self.shape[1])
        row = begin // self.shape[1]
        of_block = slice(row, row + len(rows))
        block = rows.double() + self._left[of_block].double() @ self._right
        if self._magnitude is not None:
            block *= (self._magnitude[of_block] / _row_lengths(block)).unsqueeze(1)
        return block


def _row_lengths(block: Tensor) -> Tensor:
    """Return Euclidean norms of rows; by numpy, as torch's sums depend on the thread count."""
    return torch.from_numpy(np.square(block.numpy()).sum(axis=1)).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFactors:
    """The factors of one weight, on disk."""

    down: StoredTensor
    up: StoredTensor
    magnitude: StoredTensor | None
    scaling: float
    transposed: bool

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
    """Changes an adapter makes, by the base's tensor names."""

    replaced: Mapping[str, StoredTensor]
    """Weights trained in full (``modules_to_save``), or saved whole with the factors."""
    adapted: Mapping[str, StoredFactors]


def match_tensors(
    base: Checkpoint, settings: LoraSettings, stored: Mapping[str, StoredTensor]
) -> Changes:
    """Match an adapter's tensors with the weights of the base that they change.

    Args:
        base: The model the adapter was trained on.
        settings: The adapter's parsed configuration.
        stored: The adapter's tensors by PEFT's names.

    Raises:
        ValueError: If a tensor matches no weight of the base, contradicts the settings, changes
            a tied embedding or head, or is a DoRA of an embedding.
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
            _demand_new(name, replaced, key)
            replaced[name] = tensor
        else:
            parts.setdefault(module, {})[part] = tensor
    adapted: dict[str, StoredFactors] = {}
    for module, module_parts in parts.items():
        name = _name_in(base, f"{module}.weight", module)
        _demand_new(name, adapted, module)
        adapted[name] = _factors(settings, module, module_parts, base.shape(name))
    _refuse_tied(base, (*replaced, *adapted))
    return Changes(replaced=replaced, adapted=adapted)


def module_names(base: Checkpoint, keys: Iterable[str]) -> dict[str, str]:
    """Return the base's name of every weight with factors, and PEFT's name of its module.

    Args:
        base: The model the adapter was trained on.
        keys: Names in the adapter's file.
    """
    places = ((key, *_place_of(key)) for key in keys)
    modules = {module: key for key, module, part in places if part is not None}
    return {_name_in(base, f"{m}.weight", key): m for m, key in modules.items()}


def _demand_new(name: str, changed: Mapping[str, object], key: str) -> None:
    """Refuse a second change of one weight, of which only one could be kept."""
    if name in changed:
        raise ValueError(f"{key} of the adapter changes {name} of the base a second time")


def _place_of(key: str) -> tuple[str, str | None]:
    """Split PEFT's name of a tensor into module and part; None is a whole tensor's part."""
    path = key.removeprefix(_PREFIX)
    if path == key:
        raise ValueError(
            f"{key} in the adapter does not begin with {_PREFIX}: save it with PEFT"
        )
    for ending, part in _PARTS.items():
        if path.endswith(ending):
            return path.removesuffix(ending), part
    if ".lora_" in path:
        raise ValueError(
            f"{key} in the adapter is not part of a LoRA: expected one of {', '.join(_PARTS)}"
        )
    return path.replace(".base_layer.", "."), None


def _name_in(base: Checkpoint, name: str, key: str) -> str:
    """Return the base's name of a weight, which may lack the prefix of the model's body."""
    for candidate in (name, name.partition(".")[2]):
        if base.stores(candidate):
            return candidate
    if name.endswith(HEADS):
        _refuse_tied(base, [name])
    raise ValueError(
        f"{key} of the adapter changes {name}, which the base {base.path} does not have; is it "
        "the model the adapter was trained on?"
    )


def _factors(
    settings: LoraSettings,
    module: str,
    parts: Mapping[str, StoredTensor],
    shape: tuple[int, ...],
) -> StoredFactors:
    """Combine the parts of one module and check them against settings and base."""
    is_embedding = "embedding_down" in parts
    prefix = "embedding_" if is_embedding else ""
    down, up = f"{prefix}down", f"{prefix}up"
    magnitude = parts.get("magnitude")
    if is_embedding and magnitude is not None:
        raise ValueError(
            f"the adapter has DoRA on the embedding {module}, which is not supported: merge it "
            "into its base first"
        )
    expected = {down, up, *(("magnitude",) if settings.decomposed else ())}
    if parts.keys() != expected:
        raise ValueError(
            f"{module} has {sorted(parts)} in the adapter, expected {sorted(expected)} with "
            f"use_dora {settings.decomposed}"
        )
    n_outputs, n_inputs = _size_of_change(
        settings.rank_of(module), module, parts[down], parts[up]
    )
    if magnitude is not None and magnitude.spec.shape != (n_outputs,):
        raise ValueError(
            f"the magnitude of {module} has shape {magnitude.spec.shape}, expected "
            f"({n_outputs},)"
        )
    transposed = is_embedding or settings.transposed
    changed = (n_inputs, n_outputs) if transposed else (n_outputs, n_inputs)
    if shape != changed:
        raise ValueError(
            f"the factors of {module} change a weight of shape {changed} with fan_in_fan_out "
            f"{settings.transposed}, but in the base its shape is {shape}; if only the order "
            "differs, merge the adapter into its base with PEFT first"
        )
    return StoredFactors(
        down=parts[down],
        up=parts[up],
        magnitude=magnitude,
        scaling=settings.scaling_of(module),
        transposed=transposed,
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
    """Refuse to change one of embedding and LM head where the base ties them."""
    if not is_tied(base.config):
        return
    for name in changed:
        if name.endswith((*HEADS, *EMBEDDINGS)):
            raise ValueError(
                f"the adapter changes {name}, but the base ties embedding and LM head, and the "
                "adapter changes only one of the two: untie the base first (save "
                "lm_head.weight and set tie_word_embeddings: false)"
            )
