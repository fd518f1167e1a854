"""Rows per batch: a fixed number, or as many as fit a number of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
import torch

from eval.suite_options import tokens_per_batch

_MOST_ROWS = 64
"""Most rows of a batch whose size is ``auto``, as in lm-eval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """Limits of a batch; a row alone is a batch whatever its length."""

    rows: int | None
    tokens: int | None
    """Rows times the longest row, padding included."""

    def rows_of(self, longest: int) -> int:
        """Return the rows of a batch whose longest has so many tokens, at least 1."""
        by_tokens = [] if self.tokens is None else [self.tokens // max(1, longest)]
        return max(1, min(by_tokens if self.rows is None else [self.rows, *by_tokens]))

    def halved(self, longest: int) -> Self:
        """Return the size with half as many rows where the longest has so many tokens."""
        rows = self.rows_of(longest) // 2
        if self.tokens is None:
            return replace(self, rows=rows)
        return replace(self, tokens=rows * longest)

    def classes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Sort requests into classes that are cut into batches of their own.

        Args:
            lengths: Tokens of each request.

        Returns:
            Indices of the requests of each class: all in order where only rows are limited;
            else longest first, no two of a class different by a factor of 2 or more.
        """
        if self.tokens is None:
            return [list(range(len(lengths)))] if lengths else []
        classes: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if classes and lengths[classes[-1][0]] < 2 * lengths[i]:
                classes[-1].append(i)
            else:
                classes.append([i])
        return classes


def batch_size_of(setting: int | str, model: Any) -> BatchSize:  # noqa: ANN401
    """Return the batch size that a suite asks for.

    Args:
        setting: A number of rows, ``"N tokens"``, or ``"auto"``: tokens whose logits and
            activations fill half of the free memory, and at most 64 rows.
        model: The loaded transformers model.
    """
    if isinstance(setting, int):
        return BatchSize(rows=setting, tokens=None)
    tokens = tokens_per_batch(setting)
    if tokens is not None:
        return BatchSize(rows=None, tokens=tokens)
    return BatchSize(rows=_MOST_ROWS, tokens=_tokens_that_fit(model))


def _tokens_that_fit(model: Any) -> int:  # noqa: ANN401 (any transformers model)
    """Estimate the tokens of a batch from the free memory and the model's sizes.

    A token takes its logits, their logarithms and a copy, keys and values of every layer, and
    some activations of one layer.
    """
    config = model.config.get_text_config()
    values = 3 * config.vocab_size + config.hidden_size * (2 * config.num_hidden_layers + 16)
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = psutil.virtual_memory().available
    n_bytes: int = values * model.dtype.itemsize
    return max(1, int(free) // 2 // n_bytes)
