"""Leaderboard page: cells, escaping, no external resources."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.leaderboard.details import details_of
from eval.leaderboard.figures import plots_of
from eval.leaderboard.measures import Standing
from eval.leaderboard.page import Cell, to_html, view_of, write_page
from eval.leaderboard.tables import read_leaderboard
from eval.records import write_record
from eval.results_folder import Problem
from eval.statistics.scores import Estimate
from scripts.leaderboard import main
from tests.board_records import ALL, BASE, FAILED, SEME, SUITE, TIES, WHOLE, record, with_metric
from tests.made_up_runs import (
    COST,
    bare_boards,
    model_ref,
)

INJECTION = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' --> {{ 7 * 7 }} \0\ud800"
)


STANDINGS = {
    SEME.fingerprint: Standing(band=1, better_than={"base": 0.999, "ties": 0.875}),
    TIES.fingerprint: Standing(band=1, better_than={"base": 0.75}),
}


def views(records, standings=None):
    """Boards without figures, which take their time."""
    return [view_of(board, [], standings or {}) for board in bare_boards(records)]


def table(records, standings=None):
    """Label of the column to texts, by method."""
    (view,) = views(records, standings)
    labels = [column.label for column in view.columns]
    return {
        row.method: dict(zip(labels, [cell.text for cell in row.cells], strict=True))
        for row in view.rows
    }


class Tags(HTMLParser):
    """Collects the tags of a page, and complains of what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_row_has_rank_scores_and_cost():
    assert table(ALL)["seme"] == {
        "method": "seme", "rank": "1", "mean %": "55.00 ± 2.12", "settings": "",
        "code": "60.0", "spanish": "50.0", "merge s": "0.25", "merge MiB": "50",
        "evaluation s": "7.0", "status": "done",
    }  # fmt: skip


def test_missing_values_have_a_reason_and_sort_last():
    row_cells = table(ALL)
    assert (row_cells["sce"]["mean %"], row_cells["sce"]["spanish"]) == (
        "incomplete",
        "missing",
    )
    assert (row_cells["dare"]["mean %"], row_cells["dare"]["code"]) == ("failed", "failed")
    assert row_cells["dare"]["status"] == "failed: NaN in a|b"
    assert row_cells["base"]["merge s"] == ""
    (view,) = views(ALL)
    dare = next(row for row in view.rows if row.method == "dare")
    assert Cell("failed", None) in dare.cells


def test_common_settings_are_stated_once():
    more = replace(SEME, settings={"lam": 1.0, "tau": 0.2}, fingerprint="z")
    (view,) = views([more, SEME])
    assert {cell.text for row in view.rows for cell in row.cells} >= {
        "tau=0.1 †", "tau=0.2 †"
    }  # fmt: skip
    assert "seme: lam=1." in to_html([view])


def test_refused_merge_is_not_applicable():
    row_cells = table([SEME, replace(FAILED, status="not applicable")])["dare"]
    assert (row_cells["mean %"], row_cells["code"]) == ("n/a", "n/a")
    assert row_cells["status"] == "not applicable: NaN in a|b"


def test_best_of_a_column_is_a_finished_merge():
    base = record("base", 0.6, 0.5, kind="reference")
    (view,) = views([record("x", 0.7, 0.1, status="failed", error="no"), SEME, TIES, base])
    best = {(row.method, cell.text) for row in view.rows for cell in row.cells if cell.best}
    assert best == {("seme", "60.0"), ("seme", "50.0")}


def test_standings_add_band_and_win_probability_columns():
    row_cells = table(ALL, STANDINGS)
    columns = ["band", "P(> base)", "P(> ties)"]
    assert [row_cells["seme"][c] for c in columns] == ["1", "99.9", "87.5"]
    assert [row_cells["ties"][c] for c in columns] == ["1", "75.0", ""]
    assert [row_cells["sce"][c] for c in columns] == ["", "", ""]


def test_page_without_standings_states_that_nothing_is_tested():
    assert "this table does not test differences" in to_html(views(ALL))
    assert "this table does not test differences" not in to_html(views(ALL, STANDINGS))
    assert "band" not in table(ALL)["seme"]


def test_standings_of_other_merges_are_ignored():
    standings = {"elsewhere": Standing(band=1, better_than={"x": 0.5})}
    assert to_html(views(ALL, standings)) == to_html(views(ALL))


def test_measures_have_columns_and_a_legend():
    measures = {SEME.fingerprint: {"of_experts": Estimate(value=0.875, stderr=0.0125)}}
    (view,) = (view_of(board, [], {}, measures) for board in bare_boards(ALL))
    labels = [column.label for column in view.columns]
    at = labels.index("of experts %")
    assert labels[at - 1 : at + 2] == ["settings", "of experts %", "code"]
    cells = {row.method: row.cells[at] for row in view.rows}
    assert cells["seme"] == Cell("87.5 ± 1.2", 0.875)
    assert cells["ties"] == Cell("", None)
    assert "<li>of experts: score relative to the expert" in to_html([view])
    assert "of experts" not in to_html(views(ALL))


def test_loss_columns_sort_ascending():
    measures = {
        SEME.fingerprint: dict.fromkeys(("of_gap", "forgetting"), Estimate(value=0, stderr=0))
    }
    (view,) = (view_of(board, [], {}, measures) for board in bare_boards(ALL))
    falling = {column.label: column.falling for column in view.columns}
    assert (falling["of gap %"], falling["forgetting %"]) == (True, False)


def test_problems_are_listed_escaped():
    fault = Problem(path=Path("runs") / "<b>", message="holds <i>nothing</i>")
    page = to_html(views(ALL), [fault])
    assert "<code>runs/&lt;b&gt;</code> holds &lt;i&gt;nothing&lt;/i&gt;" in page
    assert "Not shown" in page
    assert "Not shown" not in to_html(views(ALL))


def test_mark_has_a_footnote_only_if_present():
    more = replace(SEME, settings={"lam": 1.0, "tau": 0.2}, fingerprint="z")
    assert "scripts.choose" in to_html(views([more, SEME]))
    assert "scripts.choose" not in to_html(views(ALL))
    assert "\nEvaluated in float32.\n" in to_html(views(ALL))


def test_another_precision_has_its_own_board_key():
    gpu = replace(SEME, evaluation_cost=replace(COST, peak_gpu_bytes=1), fingerprint="gpu")
    first, second = views([SEME, gpu])
    assert {first.suite, second.suite} == {
        "suite zoo, split test", "suite zoo, split test, evaluated in bfloat16"
    }  # fmt: skip
    assert first.key != second.key


def test_unevaluated_merge_has_no_score_columns():
    merged = replace(TIES, suite=None, scores={}, domains={}, evaluation_cost=None)
    columns = ["method", "rank", "settings", "merge s", "merge MiB", "status"]
    assert list(table([merged])["ties"]) == columns
    assert "Merged only, not evaluated." in to_html(views([merged]))


def test_details_list_every_leaf_by_path():
    sections = {section.title: dict(section.entries) for section in details_of(SEME)}
    assert sections["Settings"] == {"lam": "1", "tau": "0.1"}
    assert sections["Diagnostics"] == {"sources.0.condition": "31.5"}
    assert sections["Merge"] == {"n_merged": "3"}
    assert sections["Provenance"] == {"git.revision": "abc", "git.dirty": "false"}
    assert sections["Models"]["pivot.content_hash"] == "hash-base"
    assert sections["Scores"]["code"] == "60.00 ± 3.00 %, n = 200; acc 0.6"
    assert sections["Run"]["dtype"] == "bfloat16"
    assert sections["Evaluation"] == {
        "name": "zoo", "split": "test", "fingerprint": "s", "held_out": "spanish"
    }  # fmt: skip


def test_cost_details_are_in_mib_without_unmeasured_entries():
    sections = {section.title: dict(section.entries) for section in details_of(SEME)}
    assert sections["Cost of the merge"] == {
        "seconds": "0.25", "peak rss": "150.0 MiB", "base rss": "100.0 MiB", "source": "VmHWM",
    }  # fmt: skip
    assert "Cost of the merge" not in {section.title for section in details_of(BASE)}


@pytest.mark.parametrize(
    ("settings", "entries"),
    [
        ({}, None),
        ({"a": [0.5, 1.0], "b": []}, (("a", "0.5, 1"), ("b", "none"))),
        ({"a": {"b": [[1, 2], "x"]}}, (("a.b.0", "1, 2"), ("a.b.1", "x"))),
        ({"a": None, "b": True}, (("a", "null"), ("b", "true"))),
    ],
)
def test_any_json_has_details(settings, entries):
    sections = {s.title: s.entries for s in details_of(replace(SEME, settings=settings))}
    assert sections.get("Settings") == entries


def test_page_is_well_formed_with_unique_ids():
    page = Tags(to_html(views([*ALL, replace(SEME, suite=replace(SUITE, fingerprint="t"))])))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    rows = [a for tag, a in page.tags if tag == "button" and a.get("class") == "expand"]
    assert page.open == []
    assert len(set(ids)) == len(ids)
    assert [row["aria-expanded"] for row in rows] == ["false"] * 6


def test_page_loads_nothing_external_and_runs_only_its_script():
    page = to_html(views(ALL))
    tags = Tags(page).tags
    assert {tag for tag, _ in tags}.isdisjoint(
        {"img", "link", "iframe", "object", "form", "image"}
    )
    targets = [v for _, a in tags for k, v in a.items() if k in ("src", "href", "xlink:href")]
    assert all(target.startswith(("#", "figures/")) for target in targets)
    (policy,) = [a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a]
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}';" in policy


def test_record_texts_are_escaped():
    hostile = replace(
        SEME,
        settings={INJECTION: INJECTION},
        models=replace(
            SEME.models, pool=INJECTION, pivot=replace(model_ref("base"), name=INJECTION)
        ),
        suite=replace(SUITE, name=INJECTION, split=INJECTION, held_out=(INJECTION,)),
        scores={INJECTION: SEME.scores["code"]}, domains={INJECTION: INJECTION},
        provenance={INJECTION: [INJECTION]},
        merge={"diagnostics": {INJECTION: INJECTION}}, dtype=INJECTION,
        started_at=INJECTION, fingerprint=INJECTION,
    )  # fmt: skip
    failed = replace(hostile, status="failed", error=INJECTION, fingerprint="x")
    base = replace(BASE, scores=hostile.scores, suite=hostile.suite, domains=hostile.domains)
    standings = {INJECTION: Standing(band=1, better_than={INJECTION: 0.5})}
    page = to_html(
        [view_of(b, plots_of(b), standings) for b in bare_boards([hostile, failed, base])]
    )
    parsed = Tags(page)
    scripts = [a for tag, a in parsed.tags if tag == "script"]
    assert [a for a in scripts if a.get("type") != "application/json"] == [{}]
    data = r'<script type="application/json"[^>]*>(.*?)</script>'
    embedded = re.findall(data, page, re.DOTALL)
    assert len(embedded) == len(scripts) - 1
    assert not [text for text in embedded if "<" in text]
    assert INJECTION in json.loads(embedded[0])["texts"]
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert not [name for _, a in parsed.tags for name in a if name.startswith("on")]
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") > 10


def test_page_and_figures_are_reproducible(tmp_path):
    for run in WHOLE:
        write_record(tmp_path, run, None)
    assert main([f"output={tmp_path}"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "scripts.leaderboard", f"output={tmp_path}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / "figures").iterdir())) == 4
    assert printed.startswith("4 records in ")


def test_a_model_on_two_boards_is_counted_once(tmp_path, capsys):
    models = replace(TIES.models, pool="alps", sources=())
    elsewhere = replace(TIES, models=models, fingerprint="y-0123456789")
    for run in (*WHOLE, elsewhere):
        write_record(tmp_path, run, None)
    assert main([f"output={tmp_path}"]) == 0
    assert sum(len(board.rows) for board in read_leaderboard(tmp_path).boards) == 6
    assert capsys.readouterr().out.startswith("5 records in ")


def test_new_record_leaves_other_boards_unchanged():
    elsewhere = replace(TIES, models=replace(TIES.models, pool="alps"), fingerprint="y")
    before, after = to_html(views(ALL)), to_html(views([*ALL, elsewhere]))
    (board,) = re.findall("<section.*?</section>", before, re.DOTALL)
    assert board in after
    assert after.count("<section") == 2


def test_stale_figures_are_deleted_and_other_files_kept(tmp_path):
    write_page(tmp_path, bare_boards(ALL))
    (tmp_path / "figures" / "mine.svg").write_text("<svg/>")
    write_page(tmp_path, [])
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.svg"]
    assert "No records yet." in (tmp_path / "leaderboard.html").read_text()


@pytest.mark.parametrize("name", ["../../x", "", INJECTION, "x" * 500])
def test_pool_names_cannot_escape_the_folder(tmp_path, name):
    pool, suite = replace(SEME.models, pool=name), replace(SUITE, name=name)
    write_page(tmp_path, bare_boards([replace(SEME, models=pool, suite=suite)]))
    assert {path.name for path in tmp_path.iterdir()} == {"figures", "leaderboard.html"}
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 4


def test_similarly_named_boards_have_distinct_files(tmp_path):
    pools = [replace(SEME.models, pool=name) for name in ("a/b", "a b")]
    write_page(tmp_path, bare_boards([replace(SEME, models=models) for models in pools]))
    assert len(list((tmp_path / "figures").iterdir())) == 8


def test_a_group_is_one_column_that_expands_into_its_subtasks():
    groups = {"exams": {"code": 0.25, "spanish": 0.75}}
    suite = replace(SUITE, more={"groups": groups})
    domains = {"code": "exams", "spanish": "exams"}
    (board,) = bare_boards([replace(SEME, suite=suite, domains=domains)])
    view = view_of(board, [], {})
    columns = {
        c.label: (c.n_subtasks, c.group) for c in view.columns if c.n_subtasks or c.group
    }
    assert columns == {"exams": (2, ""), "code": (0, "exams"), "spanish": (0, "exams")}
    (cell,) = [c.cell(board.merges[0]) for c in view.columns if c.label == "exams"]
    assert cell.key == pytest.approx(0.25 * 0.6 + 0.75 * 0.5)
    page = to_html([view])
    assert page.count(' data-group="exams" hidden') == 4  # header and cell of each subtask
    assert 'class="unfold" aria-expanded="false" data-group="exams"' in page


def test_a_task_outside_the_mean_is_a_column_of_its_own_unit_and_in_no_rank():
    records = [BASE, with_metric(TIES, -0.125), with_metric(SEME, None, None), FAILED]
    (view,) = views(records)
    column = next(c for c in view.columns if c.label == "cola")
    assert (column.falling, column.hint) == (True, "mcc,none, in no mean; higher is better")
    plain, cells = table(WHOLE), table(records)
    assert cells["ties"]["cola"] == "-0.125 ± 0.02"
    assert cells["seme"]["cola"] == "not finite"
    assert cells["dare"]["cola"] == "failed"
    without = {m: {k: v for k, v in row.items() if k != "cola"} for m, row in cells.items()}
    assert without == plain
    sections = {s.title: dict(s.entries) for s in details_of(records[1])}
    expected = "-0.125 ± 0.02, n = 9, higher is better"
    assert sections["Metrics in no mean"] == {"cola: mcc,none": expected}
