"""A board as Markdown: heading, notes, table of runs, table of measures."""

from collections.abc import Mapping, Sequence

from eval.leaderboard.board import MARK, Board, Row
from eval.leaderboard.measures import MEASURES, Measure, Measured, Standing
from eval.results_folder import Problem
from eval.statistics.scores import column_score
from eval.suite import OPTIONS
from eval.tables import (
    code,
    markdown_table,
    metric_text,
    mib,
    percent,
    plain,
    seconds,
    with_error,
)

TUNED_ON_TEST = (
    f"{MARK} One of several settings of this method on the test split, and not one chosen on a "
    "validation split (python -m scripts.choose chooses): the best of them looks better than it is."
)
"""Note on the mark of settings that were not chosen on a validation split."""
MEASURED = (
    "The base is the pivot; a source is the expert of the domain of its name, or else of the "
    "one it gains most on over the pivot. Averages "
    "are within a domain first; ± is one standard error by a paired bootstrap over documents. "
    "Empty where there is no such model or no gap beyond the noise."
)
"""Note on the baselines of the measures."""
_PROBABILITIES = {
    "bits_per_byte": "2 ** -bits_per_byte",
    **{n: f"1 / {n}" for n in ("perplexity", "word_perplexity", "byte_perplexity")},
}
"""Metric to the score that is shown in its place."""
NOT_TRUSTED = "Invalid records are excluded from all tables, except runs that only miss a task."


def board_section(
    board: Board, standings: Mapping[str, Standing], measures: Mapping[str, Measured]
) -> str:
    """One board: heading, table, and a second table where a merge has measures."""
    parts = [_heading(board), _board_table(board, standings)]
    if any(row.record.fingerprint in measures for row in board.merges):
        parts += ["### Against base, experts and ceiling", _measure_part(board, measures)]
    return "\n\n".join(parts)


def problem_list(problems: Sequence[Problem]) -> str:
    """The problems of a results folder, one line each."""
    lines = (
        f"- {code(problem.path.as_posix())} {plain(problem.message)}" for problem in problems
    )
    return "\n".join(["## Not shown", "", NOT_TRUSTED, "", *lines])


def measures_on(board: Board, measures: Mapping[str, Measured]) -> list[Measure]:
    """List the measures that at least one merge of a board has."""
    keys = {key for row in board.merges for key in measures.get(row.record.fingerprint, ())}
    return [measure for measure in MEASURES if measure.key in keys]


def evaluation(board: Board) -> str:
    """Sentences on converted metrics, precision, lm-eval version and limit, then a space."""
    if board.precision is None:
        return ""
    suites = [row.record.suite.more for row in board.merges if row.record.suite is not None]
    stated = next((suite for suite in suites if "lm_eval" in suite), None)
    harness = "" if stated is None else f" by lm-eval {stated['lm_eval']}"
    return f"{_conversions(board)}Evaluated in {board.precision}{harness}{options_of(board)}. "


def _conversions(board: Board) -> str:
    """Say what the scores of tasks in bits or perplexity are, then a space; empty without any."""
    metrics = {score.raw_metric for row in board.rows for score in row.record.scores.values()}
    formulas = ", ".join(
        _PROBABILITIES[name] for name in sorted(metrics & _PROBABILITIES.keys())
    )
    return f"Bits and perplexities are shown as probabilities: {formulas}. " if formulas else ""


def options_of(board: Board) -> str:
    """Say how the evaluation differs from the tasks' own; begins with a comma, or is empty."""
    suites = (row.record.suite for row in board.merges)
    stated = next((suite.more for suite in suites if suite is not None), {})
    limit = stated.get("limit")
    first = [] if limit is None else [f"the first {limit} documents of each task"]
    options = [
        f"{key}={stated[key]}"
        for key in ("evaluator", *OPTIONS)
        if stated.get(key) not in (None, False)
    ]
    return "".join(f", {text}" for text in (*first, *options))


def rank(row: Row) -> str:
    """Rank among the merges; empty without one."""
    return "" if row.rank is None else str(row.rank)


def mean(row: Row) -> str:
    """Mean score in per cent, or the reason for its absence."""
    if row.mean is None and row.record.suite is None:
        return ""
    if row.mean is None and row.record.reported and not row.record.domains:
        return "none"
    if row.mean is None:
        return "incomplete" if row.record.status == "done" else row.absent
    return with_error(row.mean)


def costs(row: Row) -> tuple[str, str, str]:
    """Merge seconds, merge MiB, evaluation seconds."""
    return seconds(row.merge_seconds), mib(row.merge_bytes), seconds(row.evaluation_seconds, 1)


def _heading(board: Board) -> str:
    """Heading and notes of a board."""
    title = f"## {plain(board.pool)} on {plain(board.title)}"
    shared = plain("; ".join(f"{m}: {text}" for m, text in board.shared_settings.items()))
    cost = (
        f"{f'Settings of all rows: {shared}. ' if shared else ''}"
        "Merge memory is the peak above where the merge started. "
        f"Hash of the models' content: {board.models}."
    )
    if not board.evaluated:
        return f"{title}\n\nMerged only, not evaluated. {cost}"
    tasks = plain(", ".join(_described(board, name) for name in board.columns))
    held_out = (
        f" Domains that no source was tuned for: {plain(', '.join(board.held_out))}."
        if board.held_out
        else ""
    )
    others = plain(", ".join(f"{task} ({key})" for task, key in board.reported.items()))
    outside = f" In no mean, each in its own unit: {others}." if others else ""
    marked = f"{TUNED_ON_TEST} " if any(row.tuned_on_test for row in board.merges) else ""
    return (
        f"{title}\n\n"
        f"Tasks: {tasks or 'none'}.{outside}{held_out} Scores in per cent; the mean is over domains, each the "
        "mean of its tasks; ± is one standard error over documents. Ranks follow the mean "
        "alone; merges share a band unless paired permutation tests over the same documents "
        "tell them from the band's first (5 %, step-down maxT over all pairs of the board). "
        f"{plain(evaluation(board))}{marked}{cost}"
    )


def _board_table(board: Board, standings: Mapping[str, Standing]) -> str:
    evaluated = ("mean", *board.columns, *board.reported) if board.evaluated else ()
    header = ("rank", "band", "method", "settings", *evaluated, "merge s", "merge MiB")
    header += ("evaluation s", "status") if board.evaluated else ("status",)
    lines = []
    for row in board.rows:
        scores = (mean(row), *(_cell(row, c) for c in board.columns.values()))
        scores += tuple(reported_cell(row, task) for task in board.reported)
        cost = costs(row) if board.evaluated else costs(row)[:2]
        standing = standings.get(row.record.fingerprint)
        band = "" if standing is None else str(standing.band)
        start = (rank(row), band, row.name, row.marked_settings)
        lines.append((*start, *(scores if board.evaluated else ()), *cost, row.status))
    return markdown_table(header, lines)


def _measure_part(board: Board, measures: Mapping[str, Measured]) -> str:
    """Definitions of the measures, and a row for each complete merge."""
    columns = measures_on(board, measures)
    definitions = "; ".join(f"{m.label}: {m.definition}" for m in columns)
    lines = []
    for row in board.merges:
        measured = measures.get(row.record.fingerprint)
        if measured is not None:
            cells = [with_error(measured.get(measure.key), digits=1) for measure in columns]
            lines.append((rank(row), row.name, row.marked_settings, *cells))
    header = ("rank", "method", "settings", *(measure.label for measure in columns))
    sentence = f"{definitions[:1].upper()}{definitions[1:]}."
    return f"In per cent. {sentence} {MEASURED}\n\n{markdown_table(header, lines)}"


def _described(board: Board, column: str) -> str:
    """Describe a column by its domain and its number of documents or subtasks."""
    tasks = list(board.columns[column])
    domain = board.domains[tasks[0]]
    if column in tasks:
        return f"{column} ({domain}, n = {board.n_documents(column)})"
    return f"{column} ({domain}, {len(tasks)} subtasks)"


def column_value(row: Row, shares: Mapping[str, float]) -> float | None:
    """Score of a row in a column; None unless every task of it has one."""
    scores = row.record.scores
    return column_score(shares, scores).value if scores.keys() >= shares.keys() else None


def reported_cell(row: Row, task: str) -> str:
    """Metric of a task that is in no mean, in its own unit."""
    reported = row.record.reported
    return metric_text(reported[task][1]) if task in reported else row.absent


def _cell(row: Row, shares: Mapping[str, float]) -> str:
    value = column_value(row, shares)
    return row.absent if value is None else percent(value, 1)
