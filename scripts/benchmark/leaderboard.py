"""Seconds and memory of the leaderboard of a results folder, by its number of merges.

``python -m scripts.benchmark.leaderboard [N ...]`` makes up folders of 50, 100, 200 and 500
merges, each with the samples of 12 tasks of 200 documents. For each it measures, in a process
of its own, the end of a sweep: reading the folder, ranking, writing leaderboard.md and .csv;
then the same with one more merge. CPU seconds do not depend on other load of the machine.
"""

import hashlib
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.records import ModelRef, PoolRef, Record, Score, StageCost, SuiteRef, write_record
from eval.sample_file import Sample
from eval.statistics.scores import byte_likelihood_score, raw_score
from scripts.benchmark.processes import Measured, run_measured
from scripts.benchmark.runs import ROOT

SIZES = (50, 100, 200, 500)
_N_DOCUMENTS = 200
_EXPERTS = ("code", "french", "german")
_DOMAINS = (*_EXPERTS, "english")
_TASKS = {
    f"{domain}_{kind}_{i}": domain
    for domain in _DOMAINS
    for kind, n in (("bits", 2), ("order", 1))
    for i in range(n)
}
_COST = StageCost(
    seconds=1.0,
    peak_rss_bytes=2**20,
    base_rss_bytes=0,
    peak_anon_bytes=None,
    peak_gpu_bytes=None,
    source="VmHWM",
)
_PROGRAM = """
import sys
import time
from pathlib import Path
from eval.leaderboard.tables import read_leaderboard, write_tables
start = time.process_time()
write_tables(Path(sys.argv[1]), read_leaderboard(Path(sys.argv[1])))
Path(sys.argv[2]).write_text(str(time.process_time() - start))
"""


def make_up_folder(root: Path, merges: Iterable[int]) -> None:
    """Write the records and samples of one pool: unmerged models, and merges of one method.

    Args:
        root: A results folder.
        merges: Numbers of the merges; they differ in skill, and from document to document.
    """
    rng = np.random.default_rng(0)
    difficulty = {task: rng.normal(size=_N_DOCUMENTS) for task in _TASKS}
    for name in ("base", *_EXPERTS):
        samples = dict(_samples(rng, difficulty, skill=0.0, expert=name))
        write_record(root, _record(name, "reference", {}, samples), samples)
    for lam in merges:
        rng = np.random.default_rng([1, lam])
        skill = 0.3 * rng.normal()
        samples = dict(_samples(rng, difficulty, skill=skill, expert=None))
        record = _record("task_arithmetic", "merge", {"lam": lam / 100}, samples)
        write_record(root, record, samples)


def _samples(
    rng: np.random.Generator,
    difficulty: dict[str, np.ndarray],
    *,
    skill: float,
    expert: str | None,
) -> Iterator[tuple[str, list[Sample]]]:
    """Yield every task with the samples of one run on it."""
    for task, domain in _TASKS.items():
        gain = skill + (1.0 if domain == expert else 0.0)
        noisy = difficulty[task] + gain + 0.5 * rng.normal(size=_N_DOCUMENTS)
        hashes = [
            hashlib.sha256(f"{task} {i}".encode()).hexdigest() for i in range(_N_DOCUMENTS)
        ]
        if "_bits_" in task:
            bits = 2 + np.exp(-0.2 * noisy)
            yield (
                task,
                [
                    Sample(
                        doc_id=i,
                        doc_hash=h,
                        value=2**-b,
                        loglikelihood=-90 * b * math.log(2),
                        n_bytes=90,
                    )
                    for i, (h, b) in enumerate(zip(hashes, bits.tolist(), strict=True))
                ],
            )
        else:
            yield (
                task,
                [
                    Sample(doc_id=i, doc_hash=h, value=float(right))
                    for i, (h, right) in enumerate(
                        zip(hashes, (noisy > 0).tolist(), strict=True)
                    )
                ],
            )


def _record(
    name: str, kind: str, settings: dict[str, float], samples: dict[str, list[Sample]]
) -> Record:
    """Return the record of a finished run with these samples."""
    scores: dict[str, Score] = {
        task: byte_likelihood_score(s) if "_bits_" in task else raw_score(s, metric="acc")
        for task, s in samples.items()
    }
    models = {
        n: ModelRef(name=n, location=n, revision=None, content_hash=n)
        for n in ("base", *_EXPERTS)
    }
    merged = kind == "merge"
    return Record(
        fingerprint=hashlib.sha256(repr((name, settings)).encode()).hexdigest()[:32],
        kind=kind,
        status="done",
        name=name,
        settings=settings,
        models=PoolRef(
            pool="made up",
            pivot=models["base" if merged else name],
            sources=tuple(models[n] for n in _EXPERTS) if merged else (),
            references=(),
        ),
        suite=SuiteRef(name="made up", split="test", fingerprint="0", held_out=("english",)),
        seed=0,
        dtype=None,
        scores=scores,
        domains=_TASKS,
        merge_cost=_COST if merged else None,
        evaluation_cost=_COST,
        merge={},
        error=None,
        provenance={},
        started_at="2026-01-01T00:00:00+00:00",
        seconds_total=2.0,
    )


def main(arguments: list[str]) -> int:
    """Print a line for every size.

    Args:
        arguments: Numbers of merges; none for the standard ones.
    """
    table = Table(
        "merges", "seconds", "CPU seconds", "with one more", "peak RSS, MB", title="leaderboard"
    )
    for n_merges in [int(argument) for argument in arguments] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "results"
            make_up_folder(root, range(n_merges))
            measured, cpu = _measure(root)
            make_up_folder(root, range(n_merges, n_merges + 1))
            _, more = _measure(root)
        megabytes = measured.peak_rss_bytes / 1e6
        cells = (f"{measured.seconds:.1f}", f"{cpu:.1f}", f"{more:.1f}")
        table.add_row(str(n_merges), *cells, f"{megabytes:.0f}")
    Console().print(table)
    return 0


def _measure(root: Path) -> tuple[Measured, float]:
    """Write the leaderboard in a process; return its cost and its CPU seconds after imports."""
    seconds = root.parent / "seconds"
    command = [sys.executable, "-c", _PROGRAM, str(root), str(seconds)]
    measured = run_measured(command, cwd=ROOT, environment={})
    return measured, float(seconds.read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
