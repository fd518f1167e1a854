"""Benchmark the merge engine against mergekit and against plain copying.

python -m scripts.benchmark                                  0.5 B parameters, three sources
python -m scripts.benchmark --shape llama-1.1b --methods average,sce --scaling ''

Writes NAME.json, NAME.md and NAME.svg (with matplotlib) to --output. mergekit is an extra:
pip install -e '.[peers]'; without it its columns are empty.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from eval.run_files import atomic_write
from scripts.benchmark.cases import CASES, Case
from scripts.benchmark.models import SHAPES, Shape, n_bytes, write_models
from scripts.benchmark.processes import Measured
from scripts.benchmark.report import Measurement, cost_of, figure, markdown
from scripts.benchmark.runs import Bench
from seme.provenance import collect

_SCALED_SOURCES = (2, 4, 6, 8)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, and write the results."""
    options = _parser().parse_args(arguments)
    cases = [CASES[name] for name in options.methods]
    scaled = [CASES[name] for name in options.scaling]
    shape = SHAPES[options.shape]
    mergekit = _mergekit(options.mergekit)
    if mergekit is None:
        print(
            "mergekit-yaml is not installed: its columns are empty (pip install -e '.[peers]')"
        )
    most = max(options.sources, *(_SCALED_SOURCES if scaled else ()), 1)
    with _scratch(options.scratch, n_bytes(shape) * (most + 4)) as scratch:
        bench = _bench(scratch / "full", shape, most, mergekit, options.pause)
        rows = measure(bench.with_sources(options.sources), shape, cases, options.repeats)
        for n in _SCALED_SOURCES if scaled else ():
            if n != options.sources:
                engine_only = replace(bench.with_sources(n), mergekit=None)
                rows += measure(engine_only, shape, scaled, options.repeats)
        if scaled:
            shutil.rmtree(bench.scratch)
            half = _bench(
                scratch / "half", shape.halved(), options.sources, None, options.pause
            )
            rows += measure(half, shape.halved(), scaled, options.repeats)
    name = options.name or f"{options.shape}-{options.sources}-sources"
    _write(options.output, name, rows, _environment(mergekit))


def measure(
    bench: Bench, shape: Shape, cases: Sequence[Case], repeats: int
) -> list[Measurement]:
    """Measure methods on one set of models, the programs in turn in every repetition.

    Args:
        bench: The models.
        shape: Their dimensions.
        cases: The methods.
        repeats: Number of measured runs of each program, after a first one.

    Returns:
        One row per method.
    """
    firsts = [bench.first(case) for case in cases]
    engine: dict[str, list[tuple[Measured, float]]] = {case.name: [] for case in cases}
    mergekit: dict[str, list[Measured]] = {case.name: [] for case in cases}
    floors: list[float] = []
    for repetition in range(repeats):
        bench.settle()
        floors.append(bench.floor())
        for case in cases:
            bench.settle()
            engine[case.name].append(bench.merge(case))
            if bench.mergekit is not None and case.peer is not None:
                bench.settle()
                mergekit[case.name].append(bench.merge_with_mergekit(case.peer))
            seconds = engine[case.name][-1][0].seconds
            print(f"{repetition + 1}/{repeats} {case.name}: {seconds:.1f} s", flush=True)
    return [
        Measurement(
            name=case.name,
            n_sources=len(bench.models) - 1,
            n_parameters=n_bytes(shape) // 2,
            first_seconds=first.seconds,
            engine=cost_of([measured for measured, _ in engine[case.name]]),
            merge_seconds=median(seconds for _, seconds in engine[case.name]),
            floor_seconds=median(floors),
            peer=cost_of(mergekit[case.name]) if mergekit[case.name] else None,
            difference=gap,
        )
        for case, (first, gap) in zip(cases, firsts, strict=True)
    ]


def _bench(
    scratch: Path, shape: Shape, n_sources: int, mergekit: Path | None, pause: float
) -> Bench:
    """Write the models of a shape."""
    print(f"writing {n_sources + 1} models of {n_bytes(shape) / 1e9:.2f} GB", flush=True)
    models = write_models(scratch / "models", shape, n_sources)
    return Bench(scratch=scratch, models=models, mergekit=mergekit, pause=pause)


@contextmanager
def _scratch(parent: Path | None, n_needed: int) -> Iterator[Path]:
    """Temporary folder on a disk with ``n_needed`` bytes free."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="benchmark-") as name:
        free = shutil.disk_usage(name).free
        if free < n_needed:
            sys.exit(
                f"the models and results need {n_needed / 1e9:.1f} GB, {Path(name).parent} has "
                f"{free / 1e9:.1f} free: give another folder with --scratch, or fewer --sources"
            )
        yield Path(name)


def _mergekit(given: Path | None) -> Path | None:
    """Find mergekit-yaml: the path given, else next to this Python, else on the path."""
    if given is not None:
        if not given.is_file():
            sys.exit(f"--mergekit must be the program mergekit-yaml, no file at {given}")
        return given.absolute()
    sibling = Path(sys.executable).with_name("mergekit-yaml")
    program = str(sibling) if sibling.is_file() else shutil.which("mergekit-yaml")
    return None if program is None else Path(program)


def _environment(mergekit: Path | None) -> dict[str, Any]:
    """Describe machine and libraries, those of mergekit's own installation too."""
    environment = collect()
    if mergekit is not None:
        peer = mergekit.with_name("python")
        program = (
            "from importlib.metadata import version as v; print(v('mergekit'), v('torch'))"
        )
        done = subprocess.run([peer, "-c", program], capture_output=True, text=True, check=True)
        version, torch_version = done.stdout.split()
        environment["libraries"] |= {"mergekit": version, "torch of mergekit": torch_version}
    return environment


def _write(
    output: Path, name: str, rows: Sequence[Measurement], environment: dict[str, Any]
) -> None:
    """Write the numbers, the tables and, with matplotlib, the figure."""
    output.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "environment": environment, "rows": [asdict(row) for row in rows]}
    text = markdown(f"Merging {name.replace('-', ' ')}", environment, rows)
    atomic_write(output / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    if importlib.util.find_spec("matplotlib") is not None:
        atomic_write(output / f"{name}.svg", figure(rows))
        text += f"\n![Seconds, and cost against size]({name}.svg)\n"
    atomic_write(output / f"{name}.md", text.encode())
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument(
        "--methods", type=_names, default=list(CASES), help="separated by commas; default: all"
    )
    parser.add_argument("--sources", type=_positive, default=3, help="number of sources")
    parser.add_argument("--repeats", type=_positive, default=3, help="measured runs of each")
    parser.add_argument(
        "--pause",
        type=float,
        default=10.0,
        help="seconds before every measured process, in which the system reclaims the memory "
        "of the last one; then the models are read into the page cache",
    )
    parser.add_argument(
        "--scaling",
        type=_names,
        default=["average", "ties"],
        help="methods also measured with 2 to 8 sources and at half the size; '' for none",
    )
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--name", help="stem of the files; default: shape and sources")
    parser.add_argument("--scratch", type=Path, help="folder for the models, on a local disk")
    parser.add_argument("--mergekit", type=Path, help="the program mergekit-yaml")
    return parser


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {unknown}; expected names from {sorted(CASES)}"
        )
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


if __name__ == "__main__":
    main(sys.argv[1:])
