"""What is logged of a record: numbers, and no paths of the machine."""

from dataclasses import replace

import pytest

from eval.schema import to_json
from eval.tracking.content import (
    config_of,
    merge_summary_of,
    paths_in,
    summary_of,
    tags_of,
    task_table,
    without_paths,
)
from tests.offline_runs import make_record, make_reference, model


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/alice/models/llama", "llama"),
        ("/home/Alice Smith/my models/llama 3", "llama 3"),
        ("C:\\Users\\alice\\llama", "llama"),
        ("file:///home/alice/llama", "llama"),
        ("~alice/models/llama is no model", "llama is no model"),
        ("cannot read '/home/alice/a/x.json': see /home/alice/b", "cannot read 'x.json': see b"),
        (["/home/alice/a", {"b": "/home/alice/c/"}, 1, None], ["a", {"b": "c"}, 1, None]),
    ],
)  # fmt: skip
def test_an_absolute_path_keeps_its_last_part_only(text, left):
    assert without_paths(text) == left


@pytest.mark.parametrize(
    "text",
    ["eval/zoo/models/base", "Qwen/Qwen2-0.5B", "https://hub.co/a/b", "1/2", "and/or", "</td></tr>"],
)  # fmt: skip
def test_paths_of_the_project_hub_ids_and_addresses_stay(text):
    assert without_paths(text) == text
    assert paths_in({"key": [text]}) == set()


def test_the_config_says_what_defines_the_run():
    config = config_of(make_record())
    assert (config["kind"], config["method"], config["settings"], config["seed"]) == (
        "merge", "ties", {"density": 0.1}, 3,
    )  # fmt: skip
    assert config["models"]["pivot"] == to_json(model("base"))


def test_a_model_of_a_private_folder_is_logged_by_its_name():
    models = replace(make_record().models, pivot=model("base", "/home/alice"))
    assert config_of(make_record(models=models))["models"]["pivot"]["location"] == "base"


def test_the_summary_has_scores_their_mean_and_costs():
    summary = summary_of(make_record())
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    assert (summary["merge/seconds"], summary["merge/peak_rss_bytes"]) == (0.25, 900)
    assert not [key for key in summary if key.startswith("evaluation/")]


def test_an_unmerged_model_has_no_cost_of_a_merge():
    assert merge_summary_of(make_reference()) == {}
    assert set(merge_summary_of(make_record())) >= {"merge/seconds", "merge/source"}


def test_the_task_table_keeps_the_order_of_the_suite():
    table = task_table(make_record())
    assert table.columns[:3] == ("task", "domain", "score")
    assert table.rows == (
        ("code", "code", 0.5, 0.1, 2, "acc", 0.5),
        ("french", "french", 0.25, 0.1, 2, "acc", 0.25),
    )


def test_tags_are_cut_to_what_wandb_accepts_and_stand_once():
    assert tags_of(make_record(), ["y" * 80, "ties"]) == ["y" * 64, "ties", "zoo", "done"]
