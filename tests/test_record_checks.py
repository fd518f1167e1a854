"""One bad record of several: it is named, the others are shown, and it is never written."""

import gzip
import json
import re
import sys
from dataclasses import replace

import pytest

from eval.leaderboard.page import to_html, view_of
from eval.leaderboard.tables import problem_lines, read_leaderboard, to_csv, to_markdown
from eval.records import record_json, write_record
from eval.sample_file import Sample
from eval.statistics.scores import raw_score
from tests.made_up_runs import COST, make_record

SAMPLES = {
    task: [Sample(doc_id=i, doc_hash=f"h{i}", value=v) for i, v in enumerate(values)]
    for task, values in {"a": (1, 0), "b": (1, 1)}.items()
}
SCORES = {task: raw_score(samples, metric="acc") for task, samples in SAMPLES.items()}
RECORD = make_record("ties", SCORES, merge_cost=COST)


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def show(root):
    """Everything a leaderboard writes, without figures; the rows shown and the problems."""
    board = read_leaderboard(root)
    texts = [
        to_markdown(board.boards, board.standings, board.measures, board.problems),
        to_csv(board.boards, board.measures),
        to_html([view_of(b, (), board.standings) for b in board.boards], board.problems),
        problem_lines(root, board.problems),
    ]
    for text in texts:
        text.encode()
    return [row.name for b in board.boards for row in b.rows], board.problems


def edited(root, path, value):
    """Write three records, one of them with an entry, named by its path, replaced."""
    for name in ("sce", "seme"):
        write_record(root, replace(RECORD, name=name, fingerprint=f"{name}-0123456"), SAMPLES)
    file = write_record(root, RECORD, SAMPLES)
    entries = json.loads(file.read_text())
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = entries
    for parent in parents:
        place = place[parent]
    place[last] = value
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    file.write_text(json.dumps(entries))
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", 10**400, "seed must fit 64 bits"),
        ("settings.lam", -(10**30), "settings.lam must fit 64 bits"),
        ("seconds_total", float("nan"), "seconds_total must be a finite number, got nan"),
        ("merge_cost.seconds", float("inf"), "merge_cost.seconds must be a finite number"),
        ("merge_cost.seconds", 1e300, "seconds must be in"),
        ("merge_cost.peak_rss_bytes", -1, "bytes must not be negative"),
        ("started_at", float("nan"), "started_at must be a finite number"),
        ("started_at", None, "started_at must be a text, got None"),
        ("name", "\ud800", "name must be text in Unicode, got half a character"),
        ("models.pool", "\udc80", "models.pool must be text in Unicode"),
        ("merge.\ud800", 1, "names of its keys must be text"),
        ("provenance.identity", nested(900), "nested too deep|is not a readable record"),
        ("provenance.identity", [1], "provenance.identity must be an object"),
        ("suite.held_out", "french", "suite.held_out must be a list, got 'french'"),
        ("suite.held_out", [5], "suite.held_out.0 must be a text, got 5"),
        ("suite.groups", {"g": ["a"]}, "suite.groups.g must be an object"),
        ("suite.groups", {"g": {"a": "x"}}, r"suite.groups.g.a must be a share in"),
        ("suite.groups", {"g": {"a": 1}, "h": {"a": 1}}, r"got \['a'\] in several"),
        ("suite.tasks", {"a": 5}, "suite.tasks.a must be an object"),
        ("suite.tasks", {"a": {"score": ["x"]}}, "suite.tasks.a.score must be a text or null"),
        ("scores.0.n", 0, "must have samples behind it"),
        ("scores.0.stderr", 1e300, "stderr and raw value must be finite"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named_and_the_others_are_shown(tmp_path, path, value, message):
    edited(tmp_path, path, value)
    shown, (problem,) = show(tmp_path)
    assert sorted(shown) == ["sce", "seme"]
    assert problem.path.parts[1].startswith("ties-")
    assert re.search(message, problem.message), problem.message
    assert len(problem.message) < 400


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f'{{"task": "a", "doc_id": 0, "doc_hash": "h", "value": 1{"0" * 400}}}', "float"),
        ('{"task": "a", "doc_id": 0, "doc_hash": "h", "value": NaN}', "finite"),
        ('{"task": "a", "doc_id": 0, "doc_hash": "h", "value": 1, "n_units": -1}', "negative"),
    ],
)
def test_bad_numbers_in_samples_are_named(tmp_path, value, problem):
    edited(tmp_path, "seed", 0)
    path = next(tmp_path.glob("runs/ties-*/samples.jsonl.gz"))
    path.write_bytes(gzip.compress(f"{value}\n".encode()))
    shown, problems = show(tmp_path)
    assert sorted(shown) == ["sce", "seme"]
    assert problem in problems[0].message


@pytest.mark.parametrize(
    "change",
    [
        {"models": replace(RECORD.models, pool=5)},
        {"seed": 2**70},
        {"settings": {"lam": "\ud800"}},
        {"settings": nested(100)},
        {"started_at": None},
        {"suite": replace(RECORD.suite, held_out=("a", 5))},
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, change):
    record = replace(RECORD, **change)
    with pytest.raises(ValueError, match="the record of ties cannot be written as JSON"):
        write_record(tmp_path, record, SAMPLES)
    assert not (tmp_path / "runs").exists()


def test_samples_of_another_type_are_not_written(tmp_path):
    sample = Sample(doc_id=0, doc_hash=5, value=1.0)
    with pytest.raises(ValueError, match="doc_hash must be a text, got 5"):
        write_record(tmp_path, RECORD, {"a": [sample]})
    assert not (tmp_path / "runs").exists()


def test_a_valid_record_is_written_as_it_is():
    assert json.loads(record_json(RECORD))["settings"] == {}


def test_foreign_text_is_neither_markup_nor_a_formula(tmp_path):
    evil = "=cmd|'/c'!A1\n# h <img src=x> [a](javascript:b) `c` *d* \x1b[31m\u202e"
    pool = replace(RECORD.models, pool=evil)
    record = replace(RECORD, models=pool, settings={"note": evil})
    write_record(tmp_path, record, SAMPLES)
    (tmp_path / "runs/bad`\n# x").mkdir()
    (tmp_path / "runs/bad`\n# x/record.json").write_text("{<b>")
    board = read_leaderboard(tmp_path)
    markdown = to_markdown(board.boards, problems=board.problems)
    headings = [line[:8] for line in markdown.splitlines() if line.startswith("#")]
    assert headings == ["# Leader", "## Not s", "## =cmd|"]
    for raw in ("<img", "[a](", "`c`", "\x1b", "\u202e"):
        assert raw not in markdown.replace("\\<", "").replace("\\[", "").replace("\\`", "")
    csv = to_csv(board.boards)
    assert "\n'=cmd" in csv
    assert "\x1b" not in csv
