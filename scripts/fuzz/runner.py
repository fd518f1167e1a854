"""Runs of the fuzzer: ``python -m scripts.fuzz [options]``.

A bounded number of cases, or of seconds, in as many processes as there are cores; prints counts
by reader, and for each violation of the property in :mod:`scripts.fuzz.readers` the shortest case
found. Exit code 1 if there is one.
"""

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from scripts.fuzz.mutations import mutated
from scripts.fuzz.readers import Bench, Counts, ViolationError

_CHUNK = 250
"""Cases of one run of hypothesis, which keeps what it has seen in memory."""
_CASE_FILE = "case.txt"
"""Name of the file that holds the case being read."""
_MAX_VIOLATIONS = 10
"""Violations after which a process ends."""


def fuzz(
    root: Path, *, first_seed: int, n_cases: int, seconds: float, only: str = ""
) -> tuple[Counts, list[str]]:
    """Read mutated folders until a number of cases, of seconds or of violations is reached.

    Args:
        root: An empty scratch folder; ``SEME_CACHE_DIR`` should be in it, and
            ``HF_HUB_OFFLINE`` set.
        first_seed: Seed of the first chunk of cases; one more for each other.
        n_cases: The most cases.
        seconds: The most seconds, on the clock.
        only: Beginning of the names of the readers; empty for all.

    Returns:
        Counts, and violations with their cases, at most ten.
    """
    bench, started, violations = Bench(root), time.monotonic(), list[str]()
    while (
        bench.counts.n_cases < n_cases
        and time.monotonic() - started < seconds
        and len(violations) < _MAX_VIOLATIONS
    ):
        n_chunk = min(_CHUNK, n_cases - bench.counts.n_cases)
        violation = _fuzz_chunk(bench, first_seed, n_chunk, until=started + seconds, only=only)
        violations += [violation] if violation else []
        first_seed += 1
    return bench.counts, violations


def _fuzz_chunk(bench: Bench, chunk_seed: int, n_cases: int, *, until: float, only: str) -> str:
    """Read the mutated folders of one seed; return a violation with its case, or nothing."""
    shortest: list[str] = []
    targets = {name: files for name, files in bench.targets.items() if name.startswith(only)}

    @seed(chunk_seed)
    @settings(
        max_examples=n_cases,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(sorted(targets)))
        folder, mutations = data.draw(mutated(targets[target]))
        if time.monotonic() < until:
            case = "\n  ".join([f"seed {chunk_seed}, {target}:", *mutations])
            (bench.root / _CASE_FILE).write_text(case, "utf-8", "backslashreplace")
            try:
                bench.check(target, folder)
            except ViolationError as violation:
                shortest[:] = [f"{case}\n  {violation}"]
                raise

    with suppress(ViolationError, Flaky):  # the second: time was up while it was shortened
        check()
    return "".join(shortest)


def _in_process(
    folder: Path, first_seed: int, n_cases: int, seconds: float, only: str
) -> tuple[Counts, list[str]]:
    logging.disable(logging.WARNING)
    os.environ.update(SEME_CACHE_DIR=f"{folder}/cache", HF_HUB_OFFLINE="1")
    return fuzz(folder, first_seed=first_seed, n_cases=n_cases, seconds=seconds, only=only)


def main(arguments: Sequence[str]) -> int:
    """Fuzz in several processes; return 1 if a violation was found, else 0."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="beginning of the names of the readers")
    options = parser.parse_args(arguments)
    n, started = options.processes, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seme-fuzz-") as folder:
        roots = [Path(folder) / str(i) for i in range(n)]
        for root in roots:
            root.mkdir()
        outcomes = _outcomes(roots, options)
    counts = Counts()
    for count, _ in outcomes:
        counts.add(count)
    print(report(counts, time.monotonic() - started))
    violations = [violation for _, of_process in outcomes for violation in of_process]
    print(*violations, sep="\n", file=sys.stderr, end="\n" if violations else "")
    return 1 if violations else 0


def _outcomes(
    roots: Sequence[Path], options: argparse.Namespace
) -> list[tuple[Counts, list[str]]]:
    """Fuzz in one process for each folder.

    Raises:
        SystemExit: If a process dies; says what each was reading.
    """
    n = len(roots)
    with ProcessPoolExecutor(n, multiprocessing.get_context("spawn")) as pool:
        running = [
            pool.submit(
                _in_process,
                root,
                options.seed + 1_000_000 * i,
                options.cases // n,
                options.seconds,
                options.only,
            )
            for i, root in enumerate(roots)
        ]
        try:
            return [future.result() for future in running]
        except BrokenProcessPool:
            cases = [(root / _CASE_FILE).read_text("utf-8") for root in roots]
            sys.exit("\n".join(["a process died; what each was reading:", *cases]))


def report(counts: Counts, seconds: float) -> str:
    """Lay out counts: a line for each reader, then the sums."""
    lines = [
        f"{target:20} {counts.results.get(target, 0):7} read {counts.refusals.get(target, 0):7}"
        " refused"
        for target in sorted(counts.results.keys() | counts.refusals.keys())
    ]
    lines.append(
        f"{counts.n_cases} cases in {seconds:.0f} s, {len(counts.messages)} kinds of errors; at "
        f"most {counts.most_seconds:.2f} s of the processor and "
        f"{counts.most_bytes / 1e6:.0f} MB beyond the files' size"
    )
    return "\n".join(lines)
