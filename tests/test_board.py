"""Rows of each leaderboard board, and the mark of settings tuned on the test split."""

from dataclasses import replace

import pytest

from eval.leaderboard.markdown import TUNED_ON_TEST, options_of
from eval.leaderboard.tables import to_csv, to_markdown
from tests.made_up_runs import COST, bare_boards, make_record, pool_ref, suite_ref


def record(name="ties", value=0.5, split="test", **changes):
    fingerprint = f"{name} {split} {sorted(changes.items())}"
    defaults = {"models": pool_ref("p", sources=("x",)), "suite": suite_ref(split)}
    changes = {"fingerprint": fingerprint, "domains": {"a": "code"}} | defaults | changes
    return make_record(name, {"a": value}, **changes)


def unmerged(**changes):
    return record("base", kind="reference", models=pool_ref("p"), **changes)


ON_GPU = {"evaluation_cost": replace(COST, peak_gpu_bytes=7), "dtype": "bfloat16"}


TIES, SCE = record(), record("sce")


def board_rows(*records):
    """Precision and names of the rows of every board."""
    return [(b.precision, [row.name for row in b.rows]) for b in bare_boards(records)]


def test_runs_in_another_precision_have_a_separate_board():
    assert board_rows(TIES, record("sce", **ON_GPU)) == [
        ("bfloat16", ["sce"]),
        ("float32", ["ties"]),
    ]


def test_unmerged_models_are_on_the_board_of_their_precision():
    gpu = record("sce", **ON_GPU)
    assert board_rows(TIES, gpu, unmerged()) == [
        ("bfloat16", ["sce"]),
        ("float32", ["base", "ties"]),
    ]
    assert board_rows(gpu, unmerged(**ON_GPU)) == [("bfloat16", ["base", "sce"])]


def test_unevaluated_runs_are_on_the_first_board_of_their_models_and_suite():
    failed = record("dare", status="failed", error="no", scores={}, evaluation_cost=None)
    assert board_rows(TIES, failed) == [("float32", ["ties", "dare"])]
    gpu = record("sce", **ON_GPU)
    assert [names for _, names in board_rows(TIES, gpu, failed)] == [["sce", "dare"], ["ties"]]
    assert board_rows(failed, unmerged()) == [(None, ["base", "dare"])]
    assert board_rows(replace(failed, models=replace(TIES.models, pool="q")), TIES) == [
        ("float32", ["ties"]), (None, ["dare"])
    ]  # fmt: skip


def test_board_title_has_a_precision_other_than_float32():
    text = to_markdown(bare_boards([TIES, record("sce", **ON_GPU)]))
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## p on suite zoo, split test, evaluated in bfloat16",
        "## p on suite zoo, split test",
    ]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "Evaluated in float32. "),
        ({"lm_eval": "0.4.13", "limit": None}, "Evaluated in float32 by lm-eval 0.4.13. "),
        ({"lm_eval": "1", "limit": 8}, "by lm-eval 1, the first 8 documents of each task. "),
    ],
)
def test_board_header_has_precision_lm_eval_version_and_limit(more, text):
    assert text in to_markdown(
        bare_boards([replace(TIES, suite=replace(TIES.suite, more=more))])
    )


def records_with_lams(split, *lams, value=0.5):
    return [record(split=split, value=value, settings={"lam": lam}) for lam in lams]


def settings(*records):
    """Cells of the settings column, by board."""
    return [[row.marked_settings for row in board.merges] for board in bare_boards(records)]


def test_several_settings_on_the_test_split_are_marked():
    assert settings(*records_with_lams("test", 1, 2)) == [["lam=1 †", "lam=2 †"]]
    assert settings(*records_with_lams("test", 1)) == [[""]]


def test_settings_tried_on_two_boards_are_marked_on_both():
    first, second = records_with_lams("test", 1, 2)
    limited = replace(second.suite, fingerprint="limited")
    assert settings(first, replace(second, suite=limited)) == [["†"], ["†"]]


def test_setting_chosen_on_validation_is_not_marked():
    records = [
        *records_with_lams("test", 1, 2),
        *records_with_lams("validation", 1),
        *records_with_lams("validation", 2, value=0.9),
    ]
    assert settings(*records) == [["lam=1 †", "lam=2"], ["lam=2", "lam=1"]]


def test_mark_has_a_footnote_and_a_csv_column():
    records = [*records_with_lams("test", 1, 2), *records_with_lams("validation", 2), SCE]
    text = to_markdown(bare_boards(records))
    assert text.count(TUNED_ON_TEST) == 1
    assert TUNED_ON_TEST not in to_markdown(bare_boards([TIES, SCE]))
    header, *lines = to_csv(bare_boards(records)).splitlines()
    column = header.split(",").index("tuned_on_test")
    marks = {tuple(line.split(",")[i] for i in (3, 7, 8, column)) for line in lines}
    assert marks == {
        ("test", "ties", "lam=1", "True"), ("test", "ties", "lam=2", "False"),
        ("test", "sce", "", "False"), ("validation", "ties", "lam=2", "False"),
    }  # fmt: skip


def test_new_record_changes_only_its_own_board():
    parts = to_markdown(bare_boards([TIES, *records_with_lams("validation", 1)])).split("\n## ")
    more = to_markdown(bare_boards([TIES, SCE, *records_with_lams("validation", 1)])).split(
        "\n## "
    )
    assert [a == b for a, b in zip(parts, more, strict=True)] == [True, False, True]


def test_runs_of_edited_code_show_its_hash():
    old, new = (
        record(provenance={"identity": {"code": code, "exclude": []}}, fingerprint=code)
        for code in ("aaaaaaaaaa", "bbbbbbbbbb")
    )
    assert settings(old, new) == [["code=aaaaaa", "code=bbbbbb"]]
    assert settings(old) == [[""]]


def test_options_of_the_evaluation_are_named_with_the_board():
    suite = replace(TIES.suite, more={"limit": 9, "lm_eval": "1", "num_fewshot": 5})
    (board,) = bare_boards([replace(TIES, suite=suite)])
    assert options_of(board) == ", the first 9 documents of each task, num_fewshot=5"
    assert options_of(bare_boards([TIES])[0]) == ""
