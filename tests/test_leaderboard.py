import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from eval.leaderboard.tables import (
    print_summary,
    read_leaderboard,
    to_csv,
    to_markdown,
    write_tables,
)
from eval.records import write_record
from scripts.leaderboard import main
from tests.board_records import (
    ALL,
    BASE,
    FAILED,
    PARTIAL,
    SEME,
    SUITE,
    TIES,
    WHOLE,
    record,
    unmerged,
)
from tests.made_up_runs import (
    MIB,
    bare_boards,
    pool_ref,
    score,
)


def test_merges_are_ranked_by_mean_after_unranked_references():
    (board,) = bare_boards(ALL)
    order = [(row.rank, row.record.name) for row in board.rows]
    assert order == [(None, "base"), (1, "seme"), (2, "ties"), (None, "sce"), (None, "dare")]


def test_markdown_table_matches_the_expected_rows():
    table = [line for line in to_markdown(bare_boards(ALL)).splitlines() if line[:1] == "|"]
    # means (0.6 + 0.5) / 2 and so on, each with error sqrt(2) * 0.03 / 2 = 0.0212
    assert table == [
        "| rank | band | method | settings | mean | code | spanish | merge s | merge MiB"
        " | evaluation s | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "|  |  | base |  | 30.00 ± 2.12 | 20.0 | 40.0 |  |  | 7.0 | done |",
        "| 1 |  | seme |  | 55.00 ± 2.12 | 60.0 | 50.0 | 0.25 | 50 | 7.0 | done |",
        "| 2 |  | ties |  | 45.00 ± 2.12 | 50.0 | 40.0 | 0.25 | 50 | 7.0 | done |",
        "|  |  | sce |  | incomplete | 99.0 | missing | 0.25 | 50 | 7.0 | done |",
        "|  |  | dare |  | failed | failed | failed | 0.25 | 50 |  | failed: NaN in a\\|b |",
    ]


def test_rows_have_differing_settings_and_the_header_common_ones():
    other = replace(TIES, settings={"lam": 1.0, "tau": 0.2}, fingerprint="f2")
    text = to_markdown(bare_boards([TIES, other, SEME]))
    assert {line.split(" | ")[3] for line in text.splitlines() if "| ties |" in line} == {
        "tau=0.1 †", "tau=0.2 †"
    }  # fmt: skip
    assert "Settings of all rows: seme: lam=1 tau=0.1; ties: lam=1." in text


def test_refused_merge_is_not_applicable():
    refused = replace(
        FAILED, status="not applicable", error="needs sources of the pivot's shape"
    )
    row = to_markdown(bare_boards([TIES, refused])).splitlines()[-1]
    assert "| n/a | n/a | n/a |" in row
    assert row.endswith("| not applicable: needs sources of the pivot's shape |")


def test_header_has_tasks_held_out_domains_and_rank_meaning():
    text = to_markdown(bare_boards(ALL))
    assert "## zoo on suite zoo, split test" in text
    assert "code (code, n = 200), spanish (spanish, n = 200)" in text
    assert "Domains that no source was tuned for: spanish." in text
    assert "± is one standard error" in text
    assert "merges share a band unless paired permutation tests" in text


def test_header_says_what_bits_are_shown_as():
    in_bits = replace(TIES, scores={t: score(0.5, metric="bits_per_byte") for t in TIES.scores})
    note = "shown as probabilities: 2 \\*\\* -bits_per_byte."
    assert note in to_markdown(bare_boards([in_bits]))
    assert "probabilities" not in to_markdown(bare_boards([TIES]))


def test_tables_do_not_depend_on_record_order():
    assert to_markdown(bare_boards(ALL)) == to_markdown(bare_boards(reversed(ALL)))
    assert to_csv(bare_boards(ALL)) == to_csv(bare_boards(reversed(ALL)))


def test_equal_means_share_a_rank():
    (board,) = bare_boards([TIES, replace(TIES, name="other"), SEME, record("last", 0.1, 0.1)])
    assert [row.rank for row in board.merges] == [1, 2, 2, 4]


def test_each_seed_has_its_own_row():
    (board,) = bare_boards([TIES, replace(TIES, seed=1, fingerprint="f1")])
    assert [row.settings for row in board.merges] == [
        "lam=1 tau=0.1 seed=0",
        "lam=1 tau=0.1 seed=1",
    ]


def test_each_pool_and_suite_has_its_own_board():
    other_suite = replace(TIES, suite=replace(SUITE, fingerprint="t"))
    other_pool = replace(TIES, models=pool_ref("alps", sources=["code"]))
    boards = bare_boards([TIES, other_suite, other_pool])
    assert [(board.pool, board.fingerprint) for board in boards] == [
        ("alps", "s"),
        ("zoo", "s"),
        ("zoo", "t"),
    ]


def test_unmerged_models_are_on_every_board_with_their_content_hash():
    boards = bare_boards(
        [TIES, replace(TIES, models=pool_ref("alps", sources=["french"])), BASE]
    )
    assert [[row.name for row in board.references] for board in boards] == [["base"], ["base"]]


def test_unmerged_models_are_in_pool_order():
    references = [unmerged(name) for name in ("a", "base", "code", "other", "z")]
    merge = replace(TIES, models=pool_ref(sources=["z", "code"], references=["a"]))
    (board,) = bare_boards([*references, merge])
    assert [row.name for row in board.references] == ["base", "z", "code", "a"]


def test_unmerged_models_take_their_name_from_the_pool():
    renamed = replace(BASE, name="pretrained")
    (board,) = bare_boards(
        [TIES, renamed, replace(BASE, name="x", status="failed", error="no")]
    )
    assert [(row.name, row.status) for row in board.references] == [("base", "done")]


def test_unmerged_models_of_another_suite_are_left_out():
    (board,) = bare_boards([TIES, replace(BASE, suite=replace(SUITE, fingerprint="t"))])
    assert board.references == ()


def test_pools_with_equal_names_but_other_models_have_separate_boards():
    boards = bare_boards([TIES, replace(SEME, models=pool_ref(sources=["french"]))])
    assert len({board.models for board in boards}) == 2
    assert all(board.models in to_markdown([board]) for board in boards)


def test_settings_omit_null_and_shorten_numbers():
    settings = {"lam": 0.30000000000000004, "weights": None, "shares": [0.5, 1.0], "on": True}
    (board,) = bare_boards([replace(TIES, settings=settings)])
    assert board.merges[0].settings == "lam=0.3 shares=0.5,1 on=True"


def test_tasks_are_in_the_order_of_the_scores():
    turned = dict(reversed(TIES.domains.items()))  # what JSON with sorted keys may do
    (board,) = bare_boards([replace(FAILED, domains=turned), replace(TIES, domains=turned)])
    assert board.tasks == ("code", "spanish")


def test_unevaluated_merge_has_only_costs():
    merged = replace(TIES, suite=None, scores={}, domains={}, evaluation_cost=None)
    text = to_markdown(bare_boards([merged]))
    assert "Merged only, not evaluated." in text
    assert text.splitlines()[-1] == "|  |  | ties |  | 0.25 | 50 | done |"


def test_csv_has_fractions_and_bytes():
    header, base, seme, *_ = to_csv(bare_boards(ALL)).splitlines()
    row = dict(zip(header.split(","), seme.split(","), strict=True))
    assert (row["rank"], row["method"], row["mean"]) == ("1", "seme", "0.55")
    assert (row["code"], row["code_stderr"]) == ("0.6", "0.03")
    assert row["merge_peak_bytes"] == str(50 * MIB)
    assert ",reference,," in base


def test_the_summary_fits_a_terminal_of_100_columns():
    console = Console(width=100, record=True, file=sys.stderr)
    print_summary(bare_boards(ALL), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "55.00 ± 2.12" in text
    assert "failed: NaN in a|b" in text


def test_summary_marks_settings_tuned_on_the_test_split():
    console = Console(width=100, record=True, file=sys.stderr)
    print_summary(
        bare_boards([TIES, replace(TIES, settings={"tau": 0.2}, fingerprint="f")]), console
    )
    text = console.export_text()
    assert "tau=0.2 †" in text
    assert "scripts.choose" in text


def test_leaderboard_files_are_reproducible(tmp_path):
    for run in WHOLE:
        write_record(tmp_path, run, None)
    write_tables(tmp_path, read_leaderboard(tmp_path))
    before = [(tmp_path / f"leaderboard.{kind}").read_bytes() for kind in ("md", "csv")]
    command = [sys.executable, "-m", "scripts.leaderboard", f"output={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    assert [(tmp_path / f"leaderboard.{kind}").read_bytes() for kind in ("md", "csv")] == before
    assert before[0].decode() == to_markdown(bare_boards(WHOLE))


def test_no_records_give_an_empty_board(tmp_path):
    leaderboard = read_leaderboard(tmp_path)
    write_tables(tmp_path, leaderboard)
    assert leaderboard.boards == []
    assert (tmp_path / "leaderboard.md").read_text() == "# Leaderboard\n\nNo records yet.\n"


def test_script_reports_invalid_records_and_ranks_the_rest(tmp_path, capsys):
    for run in (TIES, SEME):
        write_record(tmp_path, run, None)
    assert main([f"output={tmp_path}"]) == 0
    path = tmp_path / "runs" / "ties-ties-0123456" / "record.json"
    path.write_text("{")
    assert main([f"output={tmp_path}"]) == 1
    assert capsys.readouterr().err.startswith(f"fault: {path} is not a readable record: ")
    lines = (tmp_path / "leaderboard.md").read_text().splitlines()
    assert lines[2] == "## Not shown"
    assert lines[6].startswith(
        "- `runs/ties-ties-0123456/record.json` is not a readable record"
    )
    assert [line.split(" | ")[2] for line in lines if line.startswith("| 1 ")] == ["seme"]
    assert (
        "<code>runs/ties-ties-0123456/record.json</code> is not a readable record"
        in (tmp_path / "leaderboard.html").read_text()
    )


def test_incomplete_record_is_reported_and_unranked(tmp_path, capsys):
    for run in (TIES, SEME, PARTIAL):
        write_record(tmp_path, run, None)
    assert main([f"output={tmp_path}"]) == 1
    assert (
        "record.json lacks scores of ['spanish'], so it has no rank" in capsys.readouterr().err
    )
    assert (
        "|  |  | sce |  | incomplete | 99.0 | missing |"
        in (tmp_path / "leaderboard.md").read_text()
    )


@pytest.mark.parametrize("arguments", [["results"], ["output="], ["output=a", "output=b"]])
def test_invalid_arguments_print_the_usage(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: python -m scripts.leaderboard" in capsys.readouterr().err
