"""Reproduction report of an experiment, assembled from its configuration and records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.leaderboard.board import MARK, Board
from eval.leaderboard.figures import score_against_cost, share_kept
from eval.records import Record
from eval.report.claims import claims_of
from eval.report.evidence import is_validation, title
from eval.report.experiment import Experiment
from eval.report.literature import found_by_others
from eval.report.moved import moved_claims
from eval.report.published import Publication, verdict_on
from eval.report.questions import (
    Answer,
    barriers,
    settings_that_matter,
    what_was_chosen,
    worth_merging,
)
from eval.report.ranking import bands, has_many_methods, on_both_pools, ranked_table
from eval.report.render import (
    Block,
    Drawing,
    Table,
    commands,
    finding,
    heading,
    items,
    plain,
)
from eval.report.scaling import share_by_sources
from eval.report.tables import (
    deviations,
    environment_table,
    models_table,
    paper_table,
    seeds,
    suites,
    unscored_table,
)
from eval.report.verdicts import Judgement
from eval.results_folder import Problem

_MOST_DRAWN = 8
"""Boards that are drawn and shown open; more of them are tables to open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Input of a report."""

    experiment: Experiment
    boards: Sequence[Board]
    """Every board of the results folder."""
    publications: Sequence[Publication]
    problems: Sequence[Problem]
    """Problems with files of the results folder."""
    boards_beside: Sequence[Board] = ()
    """Every board of the experiment ``experiment.beside``."""

    @property
    def reported(self) -> list[Board]:
        """Boards of the experiment's suite; without one, all but the validation split."""
        suite = self.experiment.suite
        return [
            board
            for board in self.boards
            if (board.suite == suite if suite else not is_validation(board))
        ]

    @property
    def records(self) -> list[Record]:
        """Every record of the boards, once."""
        rows = [row for board in self.boards for row in board.rows]
        by_fingerprint = {row.record.fingerprint: row.record for row in rows}
        return [by_fingerprint[key] for key in sorted(by_fingerprint)]


def report_of(inputs: ReportInput) -> list[Block]:
    """Assemble a report: the same records give the same bytes.

    Raises:
        ValueError: If runs that should be comparable are not; names them.
    """
    judgements = claims_of(inputs.boards)
    own = moved_claims(inputs.reported)
    answers, drawings = _own_questions(inputs)
    elsewhere: list[Block] = (
        [heading("The same elsewhere", 3), found_by_others()] if own else []
    )
    return [
        heading(f"Experiment: {inputs.experiment.name}", 1),
        plain(inputs.experiment.text),
        commands(inputs.experiment.commands),
        *_summary(judgements, own, answers, inputs),
        *_problems(inputs.problems),
        *_setting(inputs),
        *_results(inputs),
        *drawings,
        *_claims("Claims of our own", own),
        *elsewhere,
        *_claims("Claims of the paper", judgements),
        *_answers(answers),
        *_published(inputs),
        *_end(inputs),
    ]


def _own_questions(inputs: ReportInput) -> tuple[list[Answer], list[Drawing]]:
    """Answer the questions that these records suffice for."""
    scaling = share_by_sources(inputs.reported, inputs.experiment.name)
    candidates = [
        worth_merging(inputs.reported),
        settings_that_matter(inputs.reported),
        None if scaling is None else scaling[0],
        barriers(inputs.reported),
        bands(inputs.reported),
        on_both_pools(inputs.reported, inputs.boards_beside),
        what_was_chosen(inputs.boards),
    ]
    answers = [answer for answer in candidates if answer is not None]
    return answers, [] if scaling is None else [scaling[1]]


def _summary(
    judgements: Sequence[Judgement],
    own: Sequence[Judgement],
    answers: Sequence[Answer],
    inputs: ReportInput,
) -> list[Block]:
    asked = tuple((answer.question, answer.finding) for answer in answers)
    blocks: list[Block] = [heading("Summary")]
    for whose, of in (("claim of ours", own), ("claim of the paper", judgements)):
        claims = tuple((j.claim, j.verdict.value, j.finding) for j in of)
        blocks += [Table((whose, "verdict", "finding"), claims, verdict=1)] if claims else []
    if asked:
        blocks.append(Table(("question of ours", "finding"), asked))
    if inputs.boards_beside:
        blocks += [heading("Verdicts on both pools", 3), _both_verdicts(judgements, inputs)]
    return blocks


def _both_verdicts(judgements: Sequence[Judgement], inputs: ReportInput) -> Table:
    """Verdicts of this experiment and of the one beside it, claim by claim."""
    others = {j.claim: j.verdict.value for j in claims_of(inputs.boards_beside)}
    return Table(
        ("claim of the paper", inputs.experiment.name, str(inputs.experiment.beside)),
        tuple((j.claim, j.verdict.value, others[j.claim]) for j in judgements),
    )


def _problems(problems: Sequence[Problem]) -> list[Block]:
    """List invalid and incomplete files; no section without any."""
    if not problems:
        return []
    texts = tuple(f"{problem.path} {problem.message}" for problem in problems)
    return [heading("Files that cannot be trusted"), items(texts)]


def _setting(inputs: ReportInput) -> list[Block]:
    return [
        heading("Setting"),
        models_table(inputs.boards),
        items(suites(inputs.boards)),
        plain(
            f"Seeds: {seeds(inputs.records)}. Models are named by the content of their "
            "weights. Code versions stand under Environment."
        ),
    ]


def _results(inputs: ReportInput) -> list[Block]:
    boards = inputs.reported
    blocks: list[Block] = [
        heading("Results"),
        plain(
            "Performance is the mean over domains, each the mean of its tasks, with one "
            "standard error over documents; seeds are averaged, s.d. is their standard "
            "deviation. Seconds and memory are medians over seeds, memory above where the "
            "merge started. "
            f"{MARK} marks a setting that was one of several on the test split and not the one "
            "chosen on validation."
        ),
    ]
    for board in boards:
        blocks += _board(board, inputs)
    unscored = unscored_table(boards)
    if unscored is not None:
        blocks += [heading("Runs without a score", 3), unscored]
    return blocks


def _board(board: Board, inputs: ReportInput) -> list[Block]:
    suite = f"{board.suite}, split {board.split}" if board.split else board.suite
    precision = f", evaluated in {board.precision}" if board.precision != "float32" else ""
    shared = "; ".join(f"{title(m)}: {text}" for m, text in board.shared_settings.items())
    is_drawn = len(inputs.reported) <= _MOST_DRAWN
    kinds = (score_against_cost, share_kept) if is_drawn else ()
    plots = [plot for kind in kinds if (plot := kind(board))]
    table = (
        ranked_table(board, inputs.boards) if has_many_methods(board) else paper_table(board)
    )
    return [
        heading(f"{board.pool} on {suite}{precision if board.precision else ''}", 3),
        *([plain(f"Settings of all rows: {shared}.")] if shared else []),
        table if is_drawn else replace(table, folded="scores and costs"),
        *(
            Drawing(
                f"{inputs.experiment.name}.{board.key}.{plot.name}.svg", plot.svg, plot.caption
            )
            for plot in plots
        ),
    ]


def _claims(name: str, judgements: Sequence[Judgement]) -> list[Block]:
    blocks: list[Block] = [heading(name)] if judgements else []
    rule = ""
    for judgement in judgements:
        blocks += [
            heading(judgement.claim, 3),
            finding(judgement.verdict.value, judgement.finding),
            plain(f"Rule: {'the same.' if judgement.rule == rule else judgement.rule}"),
        ]
        rule = judgement.rule
        blocks += [] if judgement.evidence is None else [judgement.evidence]
    return blocks


def _answers(answers: Sequence[Answer]) -> list[Block]:
    if not answers:
        return []
    blocks: list[Block] = [heading("Questions of our own")]
    for answer in answers:
        texts = (plain(answer.finding), plain(f"How: {answer.how}"))
        blocks += [heading(answer.question, 3), *texts, *answer.tables]
    return blocks


def _published(inputs: ReportInput) -> list[Block]:
    """Table of published numbers and reproduced ones, or why they are not comparable."""
    rows = []
    for source, number in ((r.source, n) for r in inputs.publications for n in r.numbers):
        outcome, explanation = verdict_on(number, inputs.records)
        marks = ["tuned on test"] if number.tuned_on_test else []
        marks += [number.unreproduced] if number.unreproduced else []
        published = f"{number.value:g} (tolerance {number.tolerance:g})"
        rows.append((source, number.task, published, "; ".join(marks), outcome, explanation))
    header = ("source", "task", "published, %", "to be known", "outcome", "why")
    notes = tuple(f"{r.source} ({r.url}): {r.note}" for r in inputs.publications)
    return [
        heading("Published numbers"),
        *([items(notes)] if notes else []),
        Table(header, tuple(rows)),
    ]


def _end(inputs: ReportInput) -> list[Block]:
    methods = {title(r.name) for r in inputs.records if r.kind == "merge"}
    name = inputs.experiment.name
    return [
        heading("Deviations from the papers"),
        deviations(methods),
        heading("Environment"),
        environment_table(inputs.records),
        heading("To repeat it"),
        commands((*inputs.experiment.commands, f"python -m scripts.report experiment={name}")),
    ]
