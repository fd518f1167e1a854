"""Measures of merges against base, experts and multitask ceiling."""

import shutil
from dataclasses import replace

import pytest

from eval.leaderboard.board import boards_of
from eval.leaderboard.measures import measures_of, roles_of, standings_of
from eval.leaderboard.tables import to_csv, to_markdown
from eval.results_folder import load_results
from eval.sample_file import Sample
from eval.statistics.samples import Run
from eval.statistics.scores import Estimate, raw_score
from tests.made_up_runs import make_record, pool_ref, run_with, suite_ref

DOMAINS = {"c": "code", "n": "numbers", "e": "english"}


def run(name, *correct, kind="reference", domains=DOMAINS, sources=("code", "mathematics")):
    """A record and its samples; the pool has a ceiling named multitask."""
    samples_of_run = samples(*correct, tasks=domains)
    merged = pool_ref("p", sources=sources, references=("multitask",))
    record = make_record(
        name, {task: raw_score(s, metric="acc") for task, s in samples_of_run.items()},
        kind=kind, models=merged if kind == "merge" else pool_ref("p", pivot=name),
        suite=suite_ref(name="z", held_out=("english",)), domains=domains,
    )  # fmt: skip
    return record, samples_of_run


def samples(*correct, tasks=DOMAINS):
    """Of 100 documents a task, so many are answered: the first ones."""
    return {
        task: [
            Sample(doc_id=i, doc_hash=f"h{i}", value=float(i < n)) for i in range(100)
        ]
        for task, n in zip(tasks, correct, strict=True)
    }  # fmt: skip


BASE, MERGE = run("base", 20, 20, 60), run("ties", 40, 50, 50, kind="merge")
CODE, MATHEMATICS = run("code", 70, 10, 10), run("mathematics", 40, 80, 10)
MULTITASK = run("multitask", 60, 70, 60)
ALL = [BASE, MERGE, CODE, MATHEMATICS, MULTITASK]


def board_of(*runs):
    (board,) = boards_of(
        [
            Run(record=record, samples=None)
            if run_samples is None
            else run_with(record, run_samples)
            for record, run_samples in runs
        ]
    )
    return board


def measured(*runs):
    """Key to value of the only merge."""
    return measures_of([board_of(*runs)]).get(MERGE[0].fingerprint, {})


def roles(*runs):
    """The roles by names."""
    board = board_of(*runs)
    assigned = roles_of(board, {record.fingerprint for record, _ in runs})
    names = {record.fingerprint: record.name for record, _ in runs}
    return assigned and (
        names[assigned.base],
        {names[expert]: domain for expert, domain in assigned.experts.items()},
        names.get(assigned.ceiling),
    )


def test_expert_domain_is_by_name_or_largest_gain():
    # mathematics gains on code too, but less, and code has an expert of its name
    assert roles(*ALL) == ("base", {"code": "code", "mathematics": "numbers"}, "multitask")
    assert roles_of(board_of(*ALL), [r.fingerprint for r, _ in ALL]).held_out == ("english",)


def test_expert_name_has_precedence_over_gains():
    parts = roles(BASE, MERGE, run("code", 21, 10, 10), run("mathematics", 90, 80, 10))
    assert parts[1] == {"code": "code", "mathematics": "numbers"}


def test_held_out_and_insignificant_gains_define_no_expert():
    # + 5 on numbers is one standard error of the difference; + 40 on english is held out
    source = run("mathematics", 20, 25, 99)
    assert roles(BASE, MERGE, CODE, source) == ("base", {"code": "code"}, None)
    assert roles(BASE, MERGE, source) is None
    assert roles(MERGE, CODE, MATHEMATICS) is None


def test_better_of_two_sources_is_the_expert_of_a_domain():
    merge = run("ties", 40, 50, 50, kind="merge", sources=("x", "y"))
    x, y = run("x", 60, 70, 10), run("y", 55, 90, 10)
    assert roles(BASE, merge, x, y)[1] == {"y": "numbers", "x": "code"}


def test_measures_equal_their_definitions():
    measures = measured(*ALL)
    values = {key: pytest.approx(measure.value) for key, measure in measures.items()}
    assert values == {
        "of_experts": (40 / 70 + 50 / 80) / 2,
        "of_gap": (20 + 30) / (50 + 60),
        "of_ceiling": (20 + 30) / (40 + 50),
        "forgetting": 0.1,
        "interference": (0.3 + 0.3) / 2,
    }
    # of the 110 documents that base and experts tell apart, the merge answers 50
    assert measures["forgetting"].stderr == pytest.approx((0.1 * 0.9 / 100) ** 0.5, rel=0.05)
    assert all(0.01 < measure.stderr < 0.1 for measure in measures.values())


def test_measures_without_required_runs_are_omitted():
    assert measured(*ALL[:4]).keys() == {
        "of_experts", "of_gap", "forgetting", "interference"
    }  # fmt: skip
    worse = run("multitask", 10, 10, 60)
    assert "of_ceiling" not in measured(*ALL[:4], worse)
    assert measured(MERGE, CODE) == {}


def test_merges_without_samples_or_a_task_have_no_measures():
    record, merge_samples = MERGE
    lacking = replace(record, name="sce", fingerprint="sce", scores={"c": record.scores["c"]})
    other = replace(record, name="dare", fingerprint="dare")
    runs = [*ALL, (lacking, merge_samples), (other, None)]
    assert measures_of([board_of(*runs)]).keys() == {record.fingerprint}


def test_open_llm_leaderboard_v2_tasks_are_scored_above_chance():
    domains = {"leaderboard_mmlu_pro": "knowledge", "leaderboard_ifeval": "instructions"}
    merge = run("ties", 55, 30, kind="merge", domains=domains)
    merge = replace(merge[0], suite=replace(merge[0].suite, held_out=())), merge[1]
    measures = measured(merge)
    assert measures.keys() == {"above_chance"}
    assert measures["above_chance"].value == pytest.approx(((0.55 - 0.1) / 0.9 + 0.3) / 2)


def test_measures_are_in_a_second_table_and_the_csv():
    board, measures = board_of(*ALL), {"of_gap": Estimate(value=0.455, stderr=0.0321)}
    text = to_markdown([board], {}, {MERGE[0].fingerprint: measures})
    assert text.splitlines()[-3:] == [
        "| rank | method | settings | of gap |",
        "| --- | --- | --- | --- |",
        "| 1 | ties |  | 45.5 ± 3.2 |",
    ]
    assert "Of gap: " in text
    assert "### Against base" not in to_markdown([board])
    header, *lines = to_csv([board], {MERGE[0].fingerprint: measures}).splitlines()
    row = dict(zip(header.split(","), lines[-1].split(","), strict=True))
    assert (row["of_gap"], row["of_gap_stderr"], row["forgetting"]) == ("0.455", "0.0321", "")


def test_zero_change_has_no_sign():
    measures = {"forgetting": Estimate(value=-0.0001, stderr=0.0)}
    assert "| 0.0 ± 0.0 |" in to_markdown(
        [board_of(*ALL)], {}, {MERGE[0].fingerprint: measures}
    )


@pytest.fixture
def root(repository, tmp_path):
    """The published runs on the test split of two methods and of what they are held against."""
    source = repository / "results" / "published" / "runs"
    for pattern in ("seme-*", "task_arithmetic-*", "base-*", "format-*", "mathematics-*"):
        for folder in source.glob(f"{pattern}/"):
            shutil.copytree(folder, tmp_path / "runs" / folder.name)
    return tmp_path


def standings(root):
    boards = [b for b in boards_of(load_results(root).runs) if b.split == "test"]
    standings_by_run = standings_of(boards)
    return {
        row.record.fingerprint: row for board in boards for row in board.merges
    }, standings_by_run


def test_significantly_worse_merges_are_in_a_lower_band(root):
    rows, by_run = standings(root)
    bands = {}
    for fingerprint, standing in by_run.items():
        bands.setdefault(rows[fingerprint].name, set()).add(standing.band)
    assert bands["task_arithmetic"] == {1}
    assert min(bands["seme"]) > 1
    assert by_run.keys() == {f for f, row in rows.items() if row.mean is not None}


def test_win_probability_is_against_the_pivot_and_the_best_source(root):
    rows, by_run = standings(root)
    best = next(f for f, row in rows.items() if row.rank == 1)
    assert by_run[best].better_than.keys() == {"base", "mathematics"}
    assert by_run[best].better_than["base"] > 0.999
    assert all(
        0 <= p <= 1 for standing in by_run.values() for p in standing.better_than.values()
    )


def test_merge_without_samples_has_no_standing(root):
    rows, before = standings(root)
    worst = max(rows, key=lambda f: rows[f].rank or 0)
    (root / "runs" / f"{rows[worst].name}-{worst[:12]}" / "samples.jsonl.gz").unlink()
    _, after = standings(root)
    assert after.keys() == before.keys() - {worst}
