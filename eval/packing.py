"""Score several continuations of one context in one sequence, by tree attention.

lm-eval runs the model on context + continuation for every choice of a question, and so reads
the context every time. A packed sequence is a tree of tokens: the context, then every
continuation, with shared prefixes read once. The attention mask lets a token see itself and
its ancestors; its position is its depth. Log-likelihoods equal lm-eval's up to rounding.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MODEL_TYPES = ("llama", "qwen2", "qwen3")
"""Families whose attention applies a given mask and given positions unchanged."""
_LONGEST_TREE = 512
"""Tokens; the attention mask has the square of this many entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTree:
    """One context and some of its continuations, as a tree of tokens."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    """Column of each token's parent, always to its left; -1 for the first."""
    continuations: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    """Per continuation, the column that predicts each of its tokens."""
    requests: tuple[int, ...]
    """Index of the request of each continuation."""


def can_pack(config: Any) -> bool:  # noqa: ANN401 (any transformers configuration)
    """True if a model gives packed continuations the same log-likelihoods."""
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return (
        config.model_type in _MODEL_TYPES
        and not windowed
        and config._attn_implementation == "sdpa"
    )


def pack(
    requests: Mapping[int, tuple[Sequence[int], Sequence[int]]], *, max_length: int
) -> list[TokenTree]:
    """Group requests by context into trees.

    Args:
        requests: Index of a request to its context and continuation, neither empty.
        max_length: Longest input of the model in tokens; longer requests are left out.

    Returns:
        Trees of two continuations or more, longest first; a request with a context of its own
        is in none.
    """
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in requests.items():
        if len(context) + len(continuation) - 1 <= max_length:
            groups[tuple(context)].append((index, tuple(continuation)))
    trees = [tree for context, group in groups.items() for tree in _trees(context, group)]
    return sorted((t for t in trees if len(t.requests) > 1), key=lambda t: -len(t.tokens))


def log_likelihoods(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    trees: Sequence[TokenTree],
    *,
    batch_size: int,
    device: torch.device,
) -> dict[int, tuple[float, bool]]:
    """Score every continuation of the trees.

    Args:
        forward: Token ids (batch, length), mask (batch, 1, length, length; True is visible)
            and positions (batch, length) to logits (batch, length, vocabulary).
        trees: From :func:`pack`.
        batch_size: Trees per call.
        device: Device of the model.

    Returns:
        Index of a request to its natural log-likelihood, and True if it is the greedy one.
    """
    scores: dict[int, tuple[float, bool]] = {}
    for start in range(0, len(trees), batch_size):
        batch = trees[start : start + batch_size]
        ids, mask, positions = (t.to(device) for t in _tensors(batch))
        logits = forward(ids, mask, positions)
        scores |= _gather(batch, logits)
    return scores


def _trees(
    context: tuple[int, ...], members: Sequence[tuple[int, tuple[int, ...]]]
) -> Iterator[TokenTree]:
    """Split the continuations of one context into trees of limited length."""
    taken: list[tuple[int, tuple[int, ...]]] = []
    length = len(context)
    for index, continuation in members:
        if taken and length + len(continuation) - 1 > _LONGEST_TREE:
            yield _tree(context, taken)
            taken, length = [], len(context)
        taken.append((index, continuation))
        length += len(continuation) - 1
    yield _tree(context, taken)


def _tree(
    context: tuple[int, ...], members: Sequence[tuple[int, tuple[int, ...]]]
) -> TokenTree:
    """Build a tree; the last token of a continuation is predicted only, not read."""
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
    return TokenTree(
        tokens=tuple(tokens),
        parents=tuple(parents),
        continuations=continuations,
        columns=tuple(columns),
        requests=requests,
    )


def _tensors(batch: Sequence[TokenTree]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (batch, length), mask (batch, 1, length, length), positions (batch, length)."""
    indices, longest = torch.arange(len(batch)), max(len(tree.tokens) for tree in batch)
    ids = _padded([tree.tokens for tree in batch], longest, 0)
    parents = _padded([tree.parents for tree in batch], longest, 0)
    sees = torch.zeros(len(batch), longest, longest, dtype=torch.bool)
    for column in range(longest):
        if column:  # all that its parent sees, and itself
            sees[:, column] = sees[indices, parents[:, column]]
        sees[:, column, column] = True
    return ids, sees[:, None], sees.sum(dim=-1) - 1


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def _gather(batch: Sequence[TokenTree], logits: Tensor) -> dict[int, tuple[float, bool]]:
    """Log-likelihood of every continuation, and True if it is greedy, from the logits."""
    owners_before = itertools.accumulate((len(tree.requests) for tree in batch), initial=0)
    places = [
        place
        for b, (tree, n) in enumerate(zip(batch, owners_before, strict=False))
        for place in _places(b, tree, n)
    ]
    rows, columns, targets, owners = torch.tensor(places, device=logits.device).T
    logs = logits[rows, columns].log_softmax(dim=-1)
    picked = logs.gather(1, targets[:, None])[:, 0].double()
    wrong = (logs.argmax(dim=-1) != targets).double()
    requests = [request for tree in batch for request in tree.requests]
    sums = torch.zeros(2, len(requests), dtype=torch.float64, device=logits.device)
    sums.index_add_(1, owners, torch.stack([picked, wrong]))
    return {
        request: (log, n_wrong == 0)
        for request, log, n_wrong in zip(requests, *sums.tolist(), strict=True)
    }


def _places(b: int, tree: TokenTree, first_owner: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tree, column of the prediction, predicted token, number of the continuation)."""
    for owner, columns in enumerate(tree.columns, first_owner):
        targets = tree.continuations[owner - first_owner]
        yield from ((b, c, t, owner) for c, t in zip(columns, targets, strict=True))
