"""A checkpoint made of ranges of another one's layers, one after the other; nothing is copied."""

from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from seme.architecture.tensor_names import stacked_names
from seme.checkpoint.reader import Checkpoint

Ranges = Sequence[tuple[int, int]]
"""First layer of each range, and the one after its last."""
_COUNTS = ("num_hidden_layers", "n_layer")
"""Entries of ``config.json`` that hold the number of layers."""


class StackedCheckpoint(Checkpoint):
    """Layers of a checkpoint stacked anew, in any order, some of them several times or never.

    ``[(0, 24), (8, 32)]`` makes 48 layers of 32: what is known as a depth-up-scaled or
    passthrough merge (Kim et al., 2023, SOLAR, https://arxiv.org/abs/2312.15166, section 2).
    Tensors outside of layers stay; ``config.json`` has the new number of layers, and its lists
    of one entry per layer are stacked alike.
    """

    def __init__(self, base: Checkpoint, layers: Ranges) -> None:
        """Name the tensors anew; nothing is read.

        Args:
            base: The checkpoint whose layers are stacked.
            layers: Ranges of them, from the bottom.

        Raises:
            ValueError: If the checkpoint has no layers that its configuration counts, or a
                range is not within them.
        """
        key = next((key for key in _COUNTS if isinstance(base.config.get(key), int)), None)
        if key is None:
            raise ValueError(
                f"{base.path}: layers can be stacked where config.json has "
                f"{' or '.join(_COUNTS)}, and there is neither"
            )
        n_layers = int(base.config[key])
        if outside := [list(r) for r in layers if not 0 <= r[0] < r[1] <= n_layers]:
            raise ValueError(
                f"{base.path}: layers must be ranges [first, last + 1] within its {n_layers}, "
                f"got {', '.join(map(str, outside))}"
            )
        chosen = [layer for first, end in layers for layer in range(first, end)]
        try:
            names = stacked_names(base.stored, n_layers, chosen)
        except ValueError as error:
            raise ValueError(f"{base.path}: {error}") from error
        super().__init__(
            base.path,
            _stacked_config(base.config, key, chosen),
            {new: base.stored[own] for new, own in names.items()},
            commit=base.commit,
        )
        self.base = base
        self.layers = tuple(layers)

    @property
    def config_is_own(self) -> bool:
        return True

    def content_hash(self) -> str:
        """Hash the base's content and the ranges."""
        return self.content_hash_on(self.base.content_hash())

    def content_hash_on(self, base_hash: str) -> str:
        """Hash the ranges and a known hash of the base's content."""
        text = f"{base_hash} layers {[list(r) for r in self.layers]}"
        return xxhash.xxh3_128_hexdigest(text.encode())


def _stacked_config(
    config: Mapping[str, Any], key: str, chosen: Sequence[int]
) -> dict[str, Any]:
    """Set the number of layers, and stack lists of one entry per layer."""
    n_layers = config[key]
    stacked = {
        name: [value[layer] for layer in chosen]
        if isinstance(value, list) and "layer" in name and len(value) == n_layers
        else value
        for name, value in config.items()
    }
    return {**stacked, key: len(chosen)}
