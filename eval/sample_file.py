"""Samples of a run: one document's share of a score, their file, and its columns by task."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.run_files import unreadable
from eval.schema import build_columns

SAMPLES_NAME = "samples.jsonl.gz"
_TOO_LARGE = (OverflowError, RecursionError, MemoryError)
_MOST_SAMPLE_BYTES = 2**31
"""Bytes of unpacked samples; a million documents take a tenth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One document's share of a score."""

    doc_id: int
    doc_hash: str
    """Hash of the document's content: what two runs' samples are matched by."""
    value: float
    """Score of this document alone, in [0, 1] like the task's."""
    loglikelihood: float | None = None
    """Natural logarithm, summed over the document; tasks scored by likelihood only."""
    n_bytes: int | None = None
    """UTF-8 bytes of the document; rolling tasks only."""
    n_units: int | None = None
    """Units of the document where the score is a mean over them: words, or parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLine(Sample):
    """One line of a sample file."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleTable:
    """Samples of one task as columns, in the order of their file."""

    doc_hashes: tuple[str, ...]
    values: NDArray[np.float64]
    loglikelihoods: NDArray[np.float64]
    """NaN where a sample has none."""
    n_bytes: NDArray[np.float64]
    """0 where a sample has none."""
    n_units: NDArray[np.float64]
    """0 where a sample has none."""


def pack_samples(samples: Mapping[str, Iterable[Sample]]) -> bytes:
    """Compress samples, one JSON object a line; the same samples give the same bytes."""
    rows = [
        {"task": task, **_without_none(sample)}
        for task, of_task in samples.items()
        for sample in of_task
    ]
    build_columns(SampleLine, rows)
    lines = [json.dumps(row, sort_keys=True, allow_nan=False) for row in rows]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def read_samples(path: Path) -> dict[str, SampleTable]:
    """Read the samples of a run, by task.

    Args:
        path: The ``samples.jsonl.gz`` of a run, or the run's folder.

    Raises:
        ValueError: If the file is damaged; names it.
    """
    from pydantic_core import from_json  # noqa: PLC0415 (a merge alone reads no samples)

    path = path / SAMPLES_NAME if path.is_dir() else path
    try:
        lines = _unpacked(path).splitlines()
        rows = from_json(b"[%b]" % b",\n".join(lines), cache_strings="all")
        if len(rows) != len(lines):
            raise ValueError(
                f"expected one JSON object a line, got {len(rows)} in {len(lines)}"
            )
        return _sample_tables(rows)
    except (OSError, EOFError, zlib.error, ValueError, *_TOO_LARGE) as error:
        raise unreadable(path, "does not hold readable samples", error) from error


def _unpacked(path: Path) -> bytes:
    """Read a gzip file; one that unpacks to more than any run writes is refused in time."""
    with gzip.open(path) as file:
        content = file.read(_MOST_SAMPLE_BYTES + 1)
    if len(content) > _MOST_SAMPLE_BYTES:
        raise ValueError(f"expected at most {_MOST_SAMPLE_BYTES} bytes, got more")
    return content


def _sample_tables(rows: Sequence[Any]) -> dict[str, SampleTable]:
    """Turn the parsed lines of a sample file into one table a task."""
    columns = build_columns(SampleLine, rows)
    counts = Counter(columns["task"])
    if columns["task"] != list(counts.elements()):  # as no file is written
        return _sample_tables(sorted(rows, key=itemgetter("task")))
    values, loglikelihoods, n_bytes, n_units = (
        np.array(columns[key], dtype=np.float64)  # None becomes NaN
        for key in ("value", "loglikelihood", "n_bytes", "n_units")
    )
    _check_numbers(values, loglikelihoods, n_bytes, n_units)
    for sizes in (n_bytes, n_units):
        np.nan_to_num(sizes, copy=False)
    tables, stop = {}, 0
    for task, n in counts.items():
        start, stop = stop, stop + n
        tables[task] = SampleTable(
            doc_hashes=tuple(columns["doc_hash"][start:stop]),
            values=values[start:stop],
            loglikelihoods=loglikelihoods[start:stop],
            n_bytes=n_bytes[start:stop],
            n_units=n_units[start:stop],
        )
    return tables


def _check_numbers(
    values: NDArray[np.float64],
    loglikelihoods: NDArray[np.float64],
    *sizes: NDArray[np.float64],
) -> None:
    """Refuse samples that no run writes: what is not finite, and negative sizes."""
    if not np.isfinite(values).all() or np.isinf(loglikelihoods).any():
        raise ValueError("value and loglikelihood must be finite numbers")
    if any((of_kind < 0).any() for of_kind in sizes):
        raise ValueError("n_bytes and n_units must not be negative")


def _without_none(sample: Sample) -> dict[str, Any]:
    return {key: value for key, value in asdict(sample).items() if value is not None}
