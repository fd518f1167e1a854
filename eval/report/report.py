"""The reproduction report of an experiment, put together from its records."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from eval.leaderboard.board import MARK, Board
from eval.leaderboard.figures import score_against_cost, share_kept
from eval.records import Record
from eval.report.barrier import barriers
from eval.report.claims import claims_of
from eval.report.document import (
    Block,
    Commands,
    Drawing,
    Finding,
    Heading,
    Items,
    Paragraph,
    Table,
)
from eval.report.entries import is_validation, title
from eval.report.evidence import Ground
from eval.report.experiment import Experiment
from eval.report.published import Reference, verdict_on
from eval.report.questions import (
    Answer,
    settings_that_matter,
    what_was_chosen,
    worth_merging,
)
from eval.report.scaling import share_by_sources
from eval.report.setting import (
    deviations,
    environment_table,
    models_table,
    seeds,
    suites,
)
from eval.report.tables import paper_table, unscored_table
from eval.report.verdicts import Judgement
from eval.results_folder import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that a report is made of."""

    experiment: Experiment
    grounds: Sequence[Ground]
    """Every board of the results folder."""
    references: Sequence[Reference]
    problems: Sequence[Problem]
    """What is wrong with files of the results folder."""

    @property
    def shown(self) -> list[Ground]:
        """The boards the experiment is about; the validation split is not, unless it says so."""
        suite = self.experiment.suite
        return [
            ground
            for ground in self.grounds
            if (ground.board.suite == suite if suite else not is_validation(ground.board))
        ]

    @property
    def records(self) -> list[Record]:
        """Every record of the boards, once."""
        rows = [row for ground in self.grounds for row in ground.board.rows]
        found = {row.record.fingerprint: row.record for row in rows}
        return [found[key] for key in sorted(found)]


def report_of(material: Material) -> list[Block]:
    """Put a report together: the same records give the same report.

    Raises:
        ValueError: If runs that should be comparable are not; names them.
    """
    shown = material.shown
    judgements = claims_of(material.grounds)
    answers, drawings = _own_questions(material)
    return [
        Heading(f"Experiment: {material.experiment.name}", 1),
        Paragraph(material.experiment.text),
        Commands(material.experiment.commands),
        *_summary(judgements, answers),
        *_faults(material.problems),
        *_setting(material),
        *_results(material.experiment.name, [ground.board for ground in shown]),
        *drawings,
        *_claims(judgements),
        *_answers(answers),
        *_published(material),
        *_end(material),
    ]


def _own_questions(material: Material) -> tuple[list[Answer], list[Drawing]]:
    """The questions that these records can answer."""
    scaling = share_by_sources(material.shown, material.experiment.name)
    found = [
        worth_merging(material.shown),
        settings_that_matter(material.shown),
        None if scaling is None else scaling[0],
        barriers(material.shown),
        what_was_chosen(material.grounds),
    ]
    answers = [answer for answer in found if answer is not None]
    return answers, [] if scaling is None else [scaling[1]]


def _summary(judgements: Sequence[Judgement], answers: Sequence[Answer]) -> list[Block]:
    claims = tuple((j.claim, j.verdict.value, j.finding) for j in judgements)
    asked = tuple((answer.question, answer.finding) for answer in answers)
    blocks: list[Block] = [
        Heading("Summary"),
        Table(("claim of the paper", "verdict", "finding"), claims, "verdicts", verdict=1),
    ]
    if asked:
        blocks.append(Table(("question of ours", "finding"), asked, "answers"))
    return blocks


def _faults(problems: Sequence[Problem]) -> list[Block]:
    """Files that were left out, or that lack something; nothing if there are none."""
    if not problems:
        return []
    texts = tuple(f"{fault.path} {fault.message}" for fault in problems)
    return [Heading("Files that cannot be trusted"), Items(texts)]


def _setting(material: Material) -> list[Block]:
    boards = [ground.board for ground in material.grounds]
    return [
        Heading("Setting"),
        models_table(boards),
        suites(boards),
        Paragraph(
            f"Seeds: {seeds(material.records)}. Models are named by the content of their weights. "
            "Code versions stand under Environment."
        ),
    ]


def _results(name: str, boards: Sequence[Board]) -> list[Block]:
    blocks: list[Block] = [
        Heading("Results"),
        Paragraph(
            "Performance is the mean over domains, each the mean of its tasks, with one standard "
            "error over documents; seeds are averaged, s.d. is their standard deviation. Seconds "
            "and memory are medians over seeds, memory above where the merge started. "
            f"{MARK} marks a setting that was one of several on the test split and not the one "
            "chosen on validation."
        ),
    ]
    for board in boards:
        blocks += _board(name, board)
    unscored = unscored_table(boards)
    if unscored is not None:
        blocks += [Heading("Runs without a score", 3), unscored]
    return blocks


def _board(name: str, board: Board) -> list[Block]:
    suite = f"{board.suite}, split {board.split}" if board.split else board.suite
    precision = f", evaluated in {board.precision}" if board.precision != "float32" else ""
    shared = "; ".join(f"{title(m)}: {text}" for m, text in board.shared_settings.items())
    plots = [plot for kind in (score_against_cost, share_kept) if (plot := kind(board))]
    return [
        Heading(f"{board.pool} on {suite}{precision if board.precision else ''}", 3),
        *([Paragraph(f"Settings of all rows: {shared}.")] if shared else []),
        paper_table(board),
        *(
            Drawing(f"{name}.{_key(board)}.{plot.name}.svg", plot.svg, plot.caption)
            for plot in plots
        ),
    ]


def _key(board: Board) -> str:
    """Pool and suite for a reader, a hash of what tells boards apart."""
    told_apart = json.dumps([board.pool, board.models, board.fingerprint, board.precision])
    names = [re.sub(r"[^A-Za-z0-9]+", "-", text)[:40] for text in (board.pool, board.suite)]
    return "-".join([*names, hashlib.sha256(told_apart.encode()).hexdigest()[:8]])


def _claims(judgements: Sequence[Judgement]) -> list[Block]:
    blocks: list[Block] = [Heading("Claims of the paper")]
    rule = ""
    for judgement in judgements:
        blocks += [
            Heading(judgement.claim, 3),
            Finding(judgement.verdict.value, judgement.finding),
            Paragraph(f"Rule: {'the same.' if judgement.rule == rule else judgement.rule}"),
        ]
        rule = judgement.rule
        blocks += [] if judgement.evidence is None else [judgement.evidence]
    return blocks


def _answers(answers: Sequence[Answer]) -> list[Block]:
    if not answers:
        return []
    blocks: list[Block] = [Heading("Questions of our own")]
    for answer in answers:
        texts = (Paragraph(answer.finding), Paragraph(f"How: {answer.how}"))
        blocks += [Heading(answer.question, 3), *texts, *answer.tables]
    return blocks


def _published(material: Material) -> list[Block]:
    """Every published number beside ours, or why there is none to set beside it."""
    rows = []
    for number in chain.from_iterable(r.numbers for r in material.references):
        outcome, told = verdict_on(number, material.records)
        marks = ["tuned on test"] if number.tuned_on_test else []
        marks += [number.unreproduced] if number.unreproduced else []
        published = f"{number.value:g} (tolerance {number.tolerance:g})"
        line = (number.source, number.task, published, "; ".join(marks), outcome, told)
        rows.append(line)
    header = ("source", "task", "published, %", "to be known", "outcome", "why")
    notes = tuple(f"{r.source} ({r.url}): {r.note}" for r in material.references)
    return [
        Heading("Published numbers"),
        *([Items(notes)] if notes else []),
        Table(header, tuple(rows), "published numbers"),
    ]


def _end(material: Material) -> list[Block]:
    methods = {title(r.name) for r in material.records if r.kind == "merge"}
    name = material.experiment.name
    return [
        Heading("Deviations from the papers"),
        deviations(methods),
        Heading("Environment"),
        environment_table(material.records),
        Heading("To repeat it"),
        Commands(
            (*material.experiment.commands, f"python -m scripts.report experiment={name}")
        ),
    ]
