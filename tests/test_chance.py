import importlib.util
from pathlib import Path

import pytest
import yaml

from eval.statistics.metrics import LEADERBOARD_V2

LM_EVAL = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
FOLDER = LM_EVAL / "tasks" / "leaderboard"


def declared(path):
    """A task file as far as plain YAML goes."""
    text = path.read_text(encoding="utf-8").replace("!function", "")
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("bbh_mc/[a-z]*.yaml")), ids=lambda p: p.stem
)
def test_guessing_on_bbh_scores_one_over_the_choices_of_the_task_file(path):
    config = declared(path)
    assert LEADERBOARD_V2[config["task"]] == pytest.approx(1 / len(config["doc_to_choice"]))


def test_there_is_a_bound_for_every_task_of_the_board_and_for_no_other():
    groups = (
        declared(path)["task"] for path in FOLDER.glob("*/_*.yaml") if "task" in declared(path)
    )
    named = {task for tasks in groups for task in tasks}
    assert named | {"leaderboard_mmlu_pro"} == LEADERBOARD_V2.keys()


def test_musr_gpqa_and_mmlu_pro_have_the_published_number_of_choices():
    assert LEADERBOARD_V2["leaderboard_musr_murder_mysteries"] == 1 / 2
    assert LEADERBOARD_V2["leaderboard_musr_object_placements"] == 1 / 5
    assert LEADERBOARD_V2["leaderboard_musr_team_allocation"] == 1 / 3
    assert LEADERBOARD_V2["leaderboard_gpqa_main"] == 1 / 4
    assert LEADERBOARD_V2["leaderboard_mmlu_pro"] == 1 / 10


def test_nothing_is_scored_by_guessing_where_answers_are_free():
    free = {task for task, bound in LEADERBOARD_V2.items() if bound == 0}
    assert len(free) == 8
    assert {task.split("_")[1] for task in free} == {"math", "ifeval"}
