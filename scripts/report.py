"""Write the report of an experiment: ``python -m scripts.report experiment=paper``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.leaderboard.board import Board, boards_of
from eval.report.experiment import Experiment, read_experiment, records_folder
from eval.report.published import read_publications
from eval.report.render import Block, drawing_files, to_html, to_markdown
from eval.report.report import ReportInput, report_of
from eval.results_folder import load_results
from eval.run_files import atomic_write
from seme_bench.folders import CONF, REFERENCE

_KEYS = {"experiment", "records", "output"}
_USAGE = (
    "usage: python -m scripts.report experiment=NAME [records=RESULTS_FOLDER] "
    "[output=REPORTS_FOLDER]"
)


def main(arguments: list[str]) -> int:
    """Write ``<experiment>.md``, ``.html`` and the figures of the former.

    Args:
        arguments: ``experiment=NAME``; ``records=FOLDER`` (default: the records under the
            experiment's output, else the published ones); ``output=FOLDER`` (default
            ``results/reports``).

    Returns:
        0; 1 if a file is invalid (the report names it) or there is nothing to report; 2 if the
        arguments are invalid.
    """
    options = {key: value for key, _, value in (a.partition("=") for a in arguments)}
    if "experiment" not in options or not options.keys() <= _KEYS or not all(options.values()):
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    output = Path(options.get("output", "results/reports"))
    try:
        experiment = read_experiment(CONF / "experiment" / f"{options['experiment']}.yaml")
        records = Path(options.get("records", records_folder(experiment, Path())))
        inputs = gather(experiment, records)
        write_report(output, experiment.name, report_of(inputs))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in inputs.problems:
        print(f"{problem.path} {problem.message}", file=sys.stderr)
    print(f"{len(inputs.records)} records in {output / experiment.name}.md and .html")
    return 1 if inputs.problems else 0


def gather(experiment: Experiment, records: Path) -> ReportInput:
    """Read the records and published numbers of a report.

    Raises:
        ValueError: If the folder holds no valid merge, or a file of published
            numbers is malformed; names it.
    """
    results = load_results(records)
    boards = boards_of(results.runs)
    if not boards:
        problems = "".join(
            f"\n{problem.path} {problem.message}" for problem in results.problems
        )
        commands = "".join(f"\n    {command}" for command in experiment.commands)
        raise ValueError(
            f"{records} must hold merges, it has no valid one; run{commands}{problems}"
        )
    return ReportInput(
        experiment=experiment,
        boards=boards,
        publications=read_publications(REFERENCE),
        problems=results.problems,
        boards_beside=() if experiment.beside is None else _boards_of(experiment.beside),
    )


def _boards_of(name: str) -> Sequence[Board]:
    """Boards of another experiment; none if it was not run.

    Raises:
        ValueError: If there is no such experiment.
    """
    other = read_experiment(CONF / "experiment" / f"{name}.yaml")
    return boards_of(load_results(records_folder(other, Path())).runs)


def write_report(folder: Path, name: str, blocks: list[Block]) -> None:
    """Write a report as Markdown and HTML; delete its old figures."""
    files = drawing_files(blocks)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{name}.*.svg"):
        if path.name not in files:
            path.unlink()
    for file, svg in files.items():
        atomic_write(folder / file, svg.encode())
    atomic_write(folder / f"{name}.html", to_html(blocks).encode(errors="replace"))
    atomic_write(folder / f"{name}.md", to_markdown(blocks).encode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
