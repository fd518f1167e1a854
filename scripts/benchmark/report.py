"""Tables and figure of the benchmark's results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING, Any

from scripts.benchmark.cases import Difference
from scripts.benchmark.processes import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (
    "method",
    "seconds",
    "mergekit",
    "times faster",
    "merge alone",
    "times the floor",
    "peak RSS, GB",
    "of it anonymous",
    "mergekit's RSS",
    "anonymous",
    "largest difference",
    "elements that differ",
)
_SCALING_COLUMNS = (
    "method",
    "sources",
    "million parameters",
    "seconds",
    "merge alone",
    "peak RSS, GB",
    "of it anonymous",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of repeated runs of one program; whole processes."""

    seconds: tuple[float, ...]
    """One number per run, in order."""
    peak_rss_bytes: int
    """Largest of all runs."""
    peak_anon_bytes: int

    @property
    def median_seconds(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measurements of one method on one set of models."""

    name: str
    n_sources: int
    n_parameters: int
    first_seconds: float
    """The first run, which also hashes the models' content."""
    engine: Cost
    """Cost of this engine."""
    merge_seconds: float
    """Median of the merge alone, from the runs' records."""
    floor_seconds: float
    """Median of reading the same models and writing one, without the start of the process."""
    peer: Cost | None
    """Cost of mergekit; None if it was not run."""
    difference: Difference | None
    """Difference to mergekit computing in float32; None if the definitions differ."""


def cost_of(runs: Sequence[Measured]) -> Cost:
    """Summarise repeated runs of one program."""
    return Cost(
        seconds=tuple(run.seconds for run in runs),
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
        peak_anon_bytes=max(run.peak_anon_bytes for run in runs),
    )


def markdown(title: str, environment: Mapping[str, Any], rows: Sequence[Measurement]) -> str:
    """Return the tables: methods against mergekit, then cost by sources and size.

    Args:
        title: Heading of the page.
        environment: ``cpu``, ``cores`` and ``libraries`` of the machine.
        rows: Rows with a different number of sources or parameters than the first go into the
            second table.
    """
    main = [row for row in rows if _size(row) == _size(rows[0])]
    libraries = ", ".join(f"{n} {v}" for n, v in environment["libraries"].items() if v)
    machine = f"{environment['cpu']}, {environment['cores']} cores; {libraries}."
    n_runs = len(rows[0].engine.seconds)
    lines = [f"# {title}", "", machine, "", *_explanation(n_runs), "", *_header(_COLUMNS)]
    lines += [_line(_cells(row)) for row in main]
    if len(main) < len(rows):
        lines += ["", "## Cost against the number of sources and the size", ""]
        ordered = sorted(rows, key=lambda row: (row.name, row.n_parameters, row.n_sources))
        scaled = {row.name for row in rows if row not in main}
        scaling = [_line(_scaling_cells(row)) for row in ordered if row.name in scaled]
        lines += [*_header(_SCALING_COLUMNS), *scaling]
    return "\n".join([*lines, ""])


def figure(rows: Sequence[Measurement]) -> bytes:
    """Draw seconds of both programs, then merge seconds and memory by bytes read, as SVG.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 (needed for the picture only)

    drawn = Figure(figsize=(13, 4), layout="constrained")
    bars, time, memory = drawn.subplots(1, 3)
    _draw_bars(bars, [row for row in rows if _size(row) == _size(rows[0])])
    for name in sorted({row.name for row in rows}):
        points = sorted((row for row in rows if row.name == name), key=_gigabytes_read)
        read = [_gigabytes_read(row) for row in points]
        time.plot(read, [row.merge_seconds for row in points], marker="o", label=name)
        rss = [row.engine.peak_rss_bytes / 1e9 for row in points]
        memory.plot(read, rss, marker="o", label=name)
    time.set(xlabel="GB of checkpoints", ylabel="seconds of the merge alone", xlim=0, ylim=0)
    memory.set(xlabel="GB of checkpoints", ylabel="peak RSS, GB", xlim=0, ylim=0)
    time.legend(fontsize="small")
    content = BytesIO()
    drawn.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _draw_bars(axes: "Axes", rows: Sequence[Measurement]) -> None:
    places = range(len(rows))
    engine = [row.engine.median_seconds for row in rows]
    mergekit = [0.0 if row.peer is None else row.peer.median_seconds for row in rows]
    axes.barh([place - 0.2 for place in places], engine, 0.4, label="this engine")
    axes.barh([place + 0.2 for place in places], mergekit, 0.4, label="mergekit")
    axes.set_yticks(list(places), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, whole process")
    axes.legend(fontsize="small")


def _gigabytes_read(row: Measurement) -> float:
    """Size of the bfloat16 pivot and sources together."""
    return 2 * row.n_parameters * (row.n_sources + 1) / 1e9


def _size(row: Measurement) -> tuple[int, int]:
    return row.n_sources, row.n_parameters


def _explanation(n_runs: int) -> list[str]:
    return [
        f"Runs of each program: {n_runs}; seconds are medians of whole processes, memory",
        "the largest. The programs take turns, with a pause before each (a system that",
        "takes back gigabytes slows what runs then); inputs are read into the page cache",
        "before each, content hashes are known from a first run. The models hold random",
        "numbers in real shapes. The merge alone is without the start of the process; the",
        "floor is a plain copy: one thread reads the same models tensor by tensor and",
        "writes one. mergekit computes in bfloat16, this engine in float32 or better; the",
        "difference is to mergekit computing in float32, where the definitions coincide",
        "but for ties at the threshold of TIES, which bfloat16 makes frequent. It is",
        "empty where they do not: mergekit's TIES trims every tensor by itself, its DARE",
        "restores the L1 norm of task vectors, its SCE weighs sources alike when they are",
        "close to the pivot.",
    ]


def _cells(row: Measurement) -> list[str]:
    engine, peer, gap = row.engine, row.peer, row.difference
    return [
        row.name,
        f"{engine.median_seconds:.1f}",
        "" if peer is None else f"{peer.median_seconds:.1f}",
        "" if peer is None else f"{peer.median_seconds / engine.median_seconds:.1f}",
        f"{row.merge_seconds:.2f}",
        f"{row.merge_seconds / row.floor_seconds:.1f}",
        f"{engine.peak_rss_bytes / 1e9:.2f}",
        f"{engine.peak_anon_bytes / 1e9:.2f}",
        "" if peer is None else f"{peer.peak_rss_bytes / 1e9:.2f}",
        "" if peer is None else f"{peer.peak_anon_bytes / 1e9:.2f}",
        "" if gap is None else f"{gap.largest:.2g}",
        "" if gap is None else f"{100 * gap.share:.3g} %",
    ]


def _scaling_cells(row: Measurement) -> list[str]:
    return [
        row.name,
        str(row.n_sources),
        f"{row.n_parameters / 1e6:.1f}",
        f"{row.engine.median_seconds:.1f}",
        f"{row.merge_seconds:.2f}",
        f"{row.engine.peak_rss_bytes / 1e9:.2f}",
        f"{row.engine.peak_anon_bytes / 1e9:.2f}",
    ]


def _header(columns: Sequence[str]) -> list[str]:
    return [_line(columns), _line(["---", *("---:" for _ in columns[1:])])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
