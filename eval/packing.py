"""Score several continuations of one context in one sequence, each blind to the others (ours).

lm-eval runs the model on context + continuation once for every choice of a question, and so
reads the context as often. Here a row is the context followed by all its continuations; a mask
lets each continuation see the context and itself, and positions start over behind the context.
The numbers are the same up to rounding.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MODEL_TYPES = ("llama", "qwen2", "qwen3")
"""Families whose attention takes the mask and the positions as they are given."""
_LONGEST_ROW = 512
"""Tokens; the mask of a row is its square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One context and some of its continuations, as token ids."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    requests: tuple[int, ...]
    """Index of the request behind each continuation."""

    @property
    def length(self) -> int:
        """Tokens the model reads; the last of a continuation is only predicted."""
        return len(self.context) + sum(len(c) - 1 for c in self.continuations)


def can_pack(config: Any) -> bool:  # noqa: ANN401 (any transformers configuration)
    """Whether a model computes the same for packed continuations."""
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return (
        config.model_type in _MODEL_TYPES
        and not windowed
        and config._attn_implementation == "sdpa"
    )


def pack(
    requests: Mapping[int, tuple[Sequence[int], Sequence[int]]], *, max_length: int
) -> list[Row]:
    """Put requests of one context into rows, longest row first.

    Args:
        requests: Index of a request to its context and continuation, neither empty.
        max_length: Longest input of the model in tokens; what does not fit is left out.

    Returns:
        Rows of two continuations or more; a request that shares with none is in no row.
    """
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in requests.items():
        if len(context) + len(continuation) - 1 <= max_length:
            groups[tuple(context)].append((index, tuple(continuation)))
    rows = [row for context, members in groups.items() for row in _rows(context, members)]
    return sorted((r for r in rows if len(r.requests) > 1), key=lambda r: -r.length)


def log_likelihoods(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    rows: Sequence[Row],
    *,
    batch_size: int,
    device: torch.device,
) -> dict[int, tuple[float, bool]]:
    """Score every continuation in the rows.

    Args:
        forward: Token ids (batch, length), mask (batch, 1, length, length; True may be seen)
            and positions (batch, length) to logits (batch, length, vocabulary).
        rows: What :func:`pack` gave.
        batch_size: Rows a call.
        device: Where the model is.

    Returns:
        Index of a request to its log-likelihood (natural) and whether it is the greedy one.
    """
    found: dict[int, tuple[float, bool]] = {}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids, segments, positions = (t.to(device) for t in _tensors(batch))
        logits = forward(ids, _mask(segments), positions)
        found |= _read_off(batch, logits)
    return found


def _rows(
    context: tuple[int, ...], members: Sequence[tuple[int, tuple[int, ...]]]
) -> Iterator[Row]:
    """Cut the continuations of one context into rows that are not too long."""
    taken: list[tuple[int, tuple[int, ...]]] = []
    length = len(context)
    for index, continuation in members:
        if taken and length + len(continuation) - 1 > _LONGEST_ROW:
            yield _row(context, taken)
            taken, length = [], len(context)
        taken.append((index, continuation))
        length += len(continuation) - 1
    yield _row(context, taken)


def _row(context: tuple[int, ...], members: Sequence[tuple[int, tuple[int, ...]]]) -> Row:
    indices, continuations = zip(*members, strict=True)
    return Row(context=context, continuations=continuations, requests=indices)


def _tensors(batch: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, segments (0: context, from 1: continuations, -1: padding), positions."""
    longest = max(row.length for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    segments = torch.full((len(batch), longest), -1)
    positions = torch.zeros(len(batch), longest, dtype=torch.long)
    for b, row in enumerate(batch):
        parts = [row.context, *(c[:-1] for c in row.continuations)]
        starts = [0, *(len(row.context) for _ in row.continuations)]
        ids[b, : row.length] = torch.tensor([token for part in parts for token in part])
        segments[b, : row.length] = torch.tensor([s for s, p in enumerate(parts) for _ in p])
        positions[b, : row.length] = torch.cat(
            [
                torch.arange(start, start + len(p))
                for start, p in zip(starts, parts, strict=True)
            ]
        )
    return ids, segments, positions


def _mask(segments: Tensor) -> Tensor:
    """True where a query (third axis) may see a key (fourth): context and own segment, before."""
    query, key = segments[:, None, :, None], segments[:, None, None, :]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return past & ((key == 0) | (key == query))


def _read_off(batch: Sequence[Row], logits: Tensor) -> dict[int, tuple[float, bool]]:
    """Log-likelihood and greediness of every continuation from the logits of its row."""
    owners_before = itertools.accumulate((len(row.requests) for row in batch), initial=0)
    places = [
        place
        for b, (row, n) in enumerate(zip(batch, owners_before, strict=False))
        for place in _places(b, row, n)
    ]
    rows, columns, targets, owners = torch.tensor(places, device=logits.device).T
    logs = logits[rows, columns].log_softmax(dim=-1)
    picked = logs.gather(1, targets[:, None])[:, 0].double()
    wrong = (logs.argmax(dim=-1) != targets).double()
    requests = [request for row in batch for request in row.requests]
    sums = torch.zeros(2, len(requests), dtype=torch.float64, device=logits.device)
    sums.index_add_(1, owners, torch.stack([picked, wrong]))
    return {
        request: (log, n_wrong == 0)
        for request, log, n_wrong in zip(requests, *sums.tolist(), strict=True)
    }


def _places(b: int, row: Row, first_owner: int) -> Iterator[tuple[int, int, int, int]]:
    """(row, column of the prediction, predicted token, number of the continuation)."""
    start = len(row.context)
    for owner, continuation in enumerate(row.continuations, first_owner):
        columns = [len(row.context) - 1, *range(start, start + len(continuation) - 1)]
        yield from ((b, c, t, owner) for c, t in zip(columns, continuation, strict=True))
        start += len(continuation) - 1
