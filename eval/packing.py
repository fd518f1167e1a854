"""Score several continuations of one context in one sequence, each blind to the others (ours).

lm-eval runs the model on context + continuation once for every choice of a question, and so
reads the context as often. Here a row is a tree of tokens: the context, and behind it every
continuation, which share their common beginnings too. A mask lets each token see itself and
what it follows from, and a token's position is its depth. The numbers are the same up to
rounding.
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
    """One context and some of its continuations: a tree of the tokens that the model reads."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    """Column of the token each one follows, always to its left; -1 for the first."""
    continuations: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    """Per continuation the column that predicts each of its tokens."""
    requests: tuple[int, ...]
    """Index of the request behind each continuation."""


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
    return sorted((r for r in rows if len(r.requests) > 1), key=lambda r: -len(r.tokens))


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
        ids, mask, positions = (t.to(device) for t in _tensors(batch))
        logits = forward(ids, mask, positions)
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
    """Grow the tree; the last token of a continuation is only predicted, never read."""
    tokens, parents = list(context), list(range(-1, len(context) - 1))
    children: dict[tuple[int, int], int] = {}
    columns = []
    for _, continuation in members:
        path = [len(context) - 1]
        for token in continuation[:-1]:
            child = children.setdefault((path[-1], token), len(tokens))
            if child == len(tokens):
                tokens.append(token)
                parents.append(path[-1])
            path.append(child)
        columns.append(tuple(path))
    requests, continuations = zip(*members, strict=True)
    return Row(
        tokens=tuple(tokens),
        parents=tuple(parents),
        continuations=continuations,
        columns=tuple(columns),
        requests=requests,
    )


def _tensors(batch: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (batch, length), mask (batch, 1, length, length), positions (batch, length)."""
    rows, longest = torch.arange(len(batch)), max(len(row.tokens) for row in batch)
    ids = _padded([row.tokens for row in batch], longest, 0)
    parents = _padded([row.parents for row in batch], longest, 0)
    sees = torch.zeros(len(batch), longest, longest, dtype=torch.bool)
    for column in range(longest):
        if column:  # what the token it follows sees, and itself
            sees[:, column] = sees[rows, parents[:, column]]
        sees[:, column, column] = True
    return ids, sees[:, None], sees.sum(dim=-1) - 1


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


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
    for owner, columns in enumerate(row.columns, first_owner):
        targets = row.continuations[owner - first_owner]
        yield from ((b, c, t, owner) for c, t in zip(columns, targets, strict=True))
