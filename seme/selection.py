"""Exact selection of the largest magnitudes, in a tensor or over a whole model.

Non-negative float32 numbers order like their bit patterns. So two histograms, of the upper 16
bits and of the lower 16 bits within one bucket of the first, give the exact k-th largest
magnitude in linear time without sorting, and over a model without holding it (ours).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from seme.checks import check_share

TrimTies = Literal["exact", "keep_all"]
"""``exact``: ties at the threshold go by index. ``keep_all``: every one of them is kept."""

Stream = Callable[[Sequence[str]], Iterable[tuple[str, Iterable[Tensor]]]]
"""Opens a fresh pass over the named tensors, yielding (name, one float32 tensor per column).
The columns may be a generator: they are read once, in order."""

_MAGNITUDE = 0x7FFFFFFF
_N_UPPER = 1 << 15
_N_LOWER = 1 << 16
_BLOCK = 1 << 15
"""Elements at a time: in cache, and torch runs the operations on one thread (ours)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """Which elements of one tensor survive: a threshold, and an index that breaks its ties."""

    threshold: float
    """Larger magnitudes survive, smaller do not."""
    cutoff: int
    """Magnitudes equal to the threshold survive at flat indices below this."""

    def keeps(self, values: Tensor, start: int = 0) -> Tensor:
        """Apply the rule to consecutive elements of the tensor.

        Args:
            values: float32 values, (n,).
            start: Flat index in the tensor of the first of them.

        Returns:
            Booleans, (n,).
        """
        magnitudes = values.abs()
        keeps = magnitudes > self.threshold
        n_tied = min(max(self.cutoff - start, 0), len(values))
        keeps[:n_tied] |= magnitudes[:n_tied] == self.threshold
        return keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What survives in one column of a stream of tensors."""

    rules: Mapping[str, KeepRule]
    """Tensor name to its rule."""
    threshold: float
    """The smallest magnitude that may survive; infinite when nothing does."""
    share_kept: float
    """Share of all elements that survive, in [0, 1]."""


def select_largest(values: Tensor, share: float) -> Tensor:
    """Select exactly ``round(share * numel)`` elements of the largest magnitude, never a zero.

    Ties go to the lower flat index. With fewer non-zero elements than that, all of them.

    Args:
        values: float32 without NaN, any shape.
        share: Share of the elements selected, in (0, 1].

    Returns:
        Booleans of that shape.

    Raises:
        ValueError: If ``share`` is outside (0, 1].
    """
    rule = rule_for(values, share, "exact")
    selected = torch.empty(values.numel(), dtype=torch.bool, device=values.device)
    for start, piece in _pieces(values):
        selected[start : start + len(piece)] = rule.keeps(piece, start)
    return selected.view(values.shape)


def rule_for(values: Tensor, share: float, trim_ties: TrimTies) -> KeepRule:
    """Find the rule that keeps a share of one tensor; see :func:`select_over_stream`."""
    (selection,) = select_over_stream(lambda _: [("", (values,))], [""], share, trim_ties)
    return selection.rules[""]


def select_over_stream(
    stream: Stream, names: Sequence[str], share: float, trim_ties: TrimTies
) -> tuple[Selection, ...]:
    """Find, per column, the elements of largest magnitude over all tensors of a stream.

    Reads the stream twice, and once more the one tensor per column in which the ties at the
    threshold are cut. The result does not depend on how the elements are cut into tensors.

    Args:
        stream: Opens a pass; see :data:`Stream`. Values are float32 without NaN.
        names: The tensors, in the order in which ties are broken.
        share: Share of all elements of a column that survives, in (0, 1].
        trim_ties: ``exact`` keeps ``round(share * n)`` elements, never a zero;
            ``keep_all`` keeps every element not below the (floor(share * n) + 1)-th largest,
            zeros too, as the code of the TIES authors does.

    Returns:
        One selection per column.

    Raises:
        ValueError: If ``share`` is outside (0, 1].
    """
    check_share("share", share)
    sizes, uppers = _count_upper_bits(stream, names)
    rank = _rank(sum(sizes.values()), share, trim_ties)
    if rank == 0:
        nothing = {name: KeepRule(threshold=math.inf, cutoff=0) for name in names}
        return (Selection(rules=nothing, threshold=math.inf, share_kept=0.0),) * len(uppers)
    buckets = [_locate(upper, rank) for upper in uppers]
    lowers = _count_lower_bits(stream, names, [bucket for bucket, _ in buckets])
    return tuple(
        _column_selection(_column(stream, i), sizes, rank, trim_ties, buckets[i], lowers[i])
        for i in range(len(uppers))
    )


def _rank(n_total: int, share: float, trim_ties: TrimTies) -> int:
    """Count the elements that survive if no two are equal."""
    if trim_ties == "exact":
        return round(share * n_total)
    return min(int(share * n_total) + 1, n_total)


def _count_upper_bits(
    stream: Stream, names: Sequence[str]
) -> tuple[dict[str, int], list[Tensor]]:
    """Count elements per tensor, and per column the upper 16 bits of all magnitudes."""
    sizes: dict[str, int] = {}
    uppers: list[Tensor] = []
    for name, columns in stream(names):
        counts = []
        for values in columns:
            assert values.dtype == torch.float32, f"{name} must be float32, is {values.dtype}"
            sizes[name] = values.numel()
            counts.append(_upper_histogram(values))
        uppers = [a + b for a, b in zip(uppers, counts, strict=True)] if uppers else counts
    return sizes, uppers


def _count_lower_bits(
    stream: Stream, names: Sequence[str], buckets: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Count per column and tensor the lower 16 bits within the column's bucket, sparsely."""
    lowers: list[dict[str, Tensor]] = [{} for _ in buckets]
    for name, columns in stream(names):
        for lower, values, bucket in zip(lowers, columns, buckets, strict=True):
            lower[name] = _lower_histogram(values, bucket).to_sparse()
    return lowers


def _upper_histogram(values: Tensor) -> Tensor:
    """Count the upper 16 bits of the magnitudes: int64 on the CPU, (_N_UPPER,)."""
    counts = torch.zeros(_N_UPPER, dtype=torch.int64, device=values.device)
    for _, bits in _pieces(values.view(torch.int32)):
        counts += torch.bincount((bits & _MAGNITUDE) >> 16, minlength=_N_UPPER)
    return counts.cpu()


def _lower_histogram(values: Tensor, bucket: int) -> Tensor:
    """Count the lower 16 bits of the magnitudes in a bucket: int64 on the CPU, (_N_LOWER,)."""
    digits = [torch.empty(0, dtype=torch.int32, device=values.device)]
    for _, bits in _pieces(values.view(torch.int32)):
        digits.append(bits[(bits & _MAGNITUDE) >> 16 == bucket] & 0xFFFF)
    return torch.bincount(torch.cat(digits), minlength=_N_LOWER).cpu()


def _pieces(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (flat index of the first, the elements) of consecutive blocks of a tensor."""
    flat = values.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        yield start, flat[start : start + _BLOCK]


def _locate(counts: Tensor, rank: int) -> tuple[int, int]:
    """Find the bin of the element of a rank (1 is the largest) and how many lie above it."""
    from_top = counts.flip(0).cumsum(0)
    step = int(torch.searchsorted(from_top, rank))
    above = int(from_top[step - 1]) if step else 0
    return len(counts) - 1 - step, above


def _column(stream: Stream, index: int) -> Callable[[str], Tensor]:
    """Read one tensor of one column."""

    def read(name: str) -> Tensor:
        ((_, columns),) = stream([name])
        return next(islice(columns, index, None))

    return read


def _column_selection(
    read: Callable[[str], Tensor],
    sizes: Mapping[str, int],
    rank: int,
    trim_ties: TrimTies,
    bucket: tuple[int, int],
    lower: Mapping[str, Tensor],
) -> Selection:
    """Turn the histograms of a column into its threshold and one rule per tensor."""
    upper, n_above_bucket = bucket
    counts = torch.stack(tuple(lower.values())).sum(dim=0).to_dense()
    digit, n_between = _locate(counts, rank - n_above_bucket)
    threshold = _from_bits(upper << 16 | digit)
    n_above = n_above_bucket + n_between
    n_kept_ties = int(counts[digit])
    if trim_ties == "exact":
        n_kept_ties = rank - n_above if threshold > 0 else 0
    ties = {name: int(lower[name][digit]) for name in sizes}
    cutoffs = dict(_cutoffs(read, sizes, ties, threshold, n_kept_ties))
    return Selection(
        rules={name: KeepRule(threshold=threshold, cutoff=c) for name, c in cutoffs.items()},
        threshold=threshold,
        share_kept=(n_above + n_kept_ties) / sum(sizes.values()),
    )


def _from_bits(bits: int) -> float:
    """Read a bit pattern as the float32 it stands for."""
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


def _cutoffs(
    read: Callable[[str], Tensor],
    sizes: Mapping[str, int],
    ties: Mapping[str, int],
    threshold: float,
    n_kept: int,
) -> Iterator[tuple[str, int]]:
    """Share out the surviving ties: the first ``n_kept`` in the order of the stream."""
    for name, size in sizes.items():
        if n_kept >= ties[name]:
            yield name, size
        elif n_kept == 0:
            yield name, 0
        else:
            yield name, _index_of_tie(read(name), threshold, n_kept)
        n_kept -= min(n_kept, ties[name])


def _index_of_tie(values: Tensor, threshold: float, n: int) -> int:
    """Find the flat index at which more than ``n`` magnitudes equal the threshold."""
    for start, piece in _pieces(values):
        tied = piece.abs() == threshold
        n_tied = int(tied.sum())
        if n < n_tied:
            return start + int(tied.nonzero()[n])
        n -= n_tied
    raise AssertionError(f"fewer than {n} more values equal {threshold}: the stream changed")
