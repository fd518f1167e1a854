import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from eval.statistics.metrics import (
    LEADERBOARD_V2,
    Roles,
    above_chance,
    ceiling_share,
    estimate,
    forgetting,
    gap_closed,
    interference,
    normalised,
    raw,
)
from eval.statistics.resampling import bootstrap
from eval.statistics.samples import MatchedTask, Panel, ScoreTable

DOMAINS = {"c1": "code", "c2": "code", "fr": "french", "es": "spanish"}
ROLES = Roles(
    base="base", experts={"coder": "code", "frank": "french"}, ceiling="multi",
    held_out=("spanish",),
)  # fmt: skip
SCORES = {
    #           c1   c2   fr   es
    "base":    [0.2, 0.2, 0.4, 0.5],
    "coder":   [0.5, 0.8, 0.1, 0.1],
    "frank":   [0.1, 0.1, 0.8, 0.1],
    "multi":   [0.4, 0.8, 1.0, 0.6],
    "merge":   [0.4, 0.4, 0.6, 0.4],
}  # fmt: skip


def table(**changes):
    scores = SCORES | changes
    return ScoreTable(
        values=np.array(list(scores.values())), runs=tuple(scores), domains=DOMAINS
    )


TABLE = table()


def test_raw_mean_averages_within_domains_first():
    # code 0.4, french 0.6, spanish 0.4
    assert raw(TABLE, "merge") == pytest.approx(1.4 / 3)


@pytest.mark.parametrize(
    ("metric", "run", "value"),
    [
        # relative to the task's expert: code (0.4 / 0.5 + 0.4 / 0.8) / 2, french 0.6 / 0.8
        (normalised, "merge", 0.7),
        # gains on the experts' domains, 0.4 - 0.2 and 0.6 - 0.4, over those of the ceiling
        (ceiling_share, "merge", 0.4 / 1.0),
        # the same gains over the experts' own, 0.65 - 0.2 and 0.8 - 0.4
        (gap_closed, "merge", 0.4 / 0.85),
        # losses on the held-out domain
        (forgetting, "merge", 0.1),
        (forgetting, "multi", -0.1),
        # losses to the experts: code 0.65 - 0.4, french 0.8 - 0.6
        (interference, "merge", (0.25 + 0.2) / 2),
        # code 0.65 - 0.6 lost; the gain of 0.2 on french does not offset it
        (interference, "multi", 0.05 / 2),
    ],
)
def test_metrics_of_a_worked_example(metric, run, value):
    assert metric(TABLE, run, ROLES) == pytest.approx(value)


def test_gap_closed_is_zero_for_the_base_and_one_for_all_experts():
    experts = table(merge=[0.5, 0.8, 0.8, 0.5])
    assert gap_closed(experts, "merge", ROLES) == pytest.approx(1.0)
    assert normalised(experts, "merge", ROLES) == pytest.approx(1.0)
    assert interference(experts, "merge", ROLES) == pytest.approx(0.0)
    assert gap_closed(TABLE, "base", ROLES) == forgetting(TABLE, "base", ROLES) == 0.0
    assert ceiling_share(TABLE, "multi", ROLES) == 1.0


def test_above_chance_rescales_from_lower_bound_to_one():
    # c1 (0.5 - 0.25) / 0.75 = 1/3, c2 1, fr below its bound, es (0.1 - 0) / 1
    scores = table(merge=[0.5, 1.0, 0.3, 0.1])
    lower = {"c1": 0.25, "c2": 0.5, "fr": 0.5, "es": 0.0}
    expected = ((1 / 3 + 1) / 2 + 0 + 0.1) / 3
    assert above_chance(scores, "merge", lower) == pytest.approx(expected)


def test_above_chance_is_clipped_per_task_and_not_per_domain():
    # c1 0 instead of -1, c2 0.5
    scores = table(merge=[0.0, 0.75, 0.0, 0.0])
    lower = {"c1": 0.5, "c2": 0.5, "fr": 0.0, "es": 0.0}
    assert above_chance(scores, "merge", lower) == pytest.approx(0.25 / 3)


def test_metrics_apply_to_each_resample():
    stacked = replace(TABLE, values=np.stack([TABLE.values, table(merge=[0.5] * 4).values]))
    metrics = [
        partial(m, roles=ROLES) for m in (normalised, ceiling_share, gap_closed, forgetting)
    ]
    for metric in [*metrics, raw, partial(interference, roles=ROLES)]:
        each = [metric(TABLE, "merge"), metric(table(merge=[0.5] * 4), "merge")]
        assert metric(stacked, "merge") == pytest.approx(each)


def panel():
    """Base, expert and merge on 300 documents, correlated as models of one family are."""
    rng = np.random.default_rng(0)
    values = 0.3 + 0.2 * rng.random(300) + np.array([[0.0], [0.3], [0.15]])
    values += 0.1 * rng.random((3, 300))
    task = MatchedTask(totals=values, sizes=np.ones(300), is_bits=False)
    return Panel(runs=("base", "expert", "merge"), domains={"a": "code"}, tasks={"a": task})


FAMILY = Roles(base="base", experts={"expert": "code"}, ceiling=None, held_out=())


def test_gap_closed_has_the_ratio_estimator_error():
    matched = panel()
    base, expert, merge = matched.tasks["a"].totals
    share = (merge - base).mean() / (expert - base).mean()
    residual = (merge - base) - share * (expert - base)
    expected = residual.std(ddof=1) / 300**0.5 / (expert - base).mean()
    closed = estimate(
        partial(gap_closed, roles=FAMILY), "merge", observed=matched.observed(),
        resampled=bootstrap(matched, n_resamples=4000, seed=0),
    )  # fmt: skip
    assert closed.value == pytest.approx(share)
    assert closed.stderr == pytest.approx(expected, rel=0.04)


def test_errors_shared_by_runs_cancel():
    # the quotient's error by the delta method is far below that of the score itself
    matched = panel()
    tables = {
        "observed": matched.observed(),
        "resampled": bootstrap(matched, n_resamples=4000, seed=0),
    }
    _, expert, merge = matched.tasks["a"].totals
    relative = estimate(partial(normalised, roles=FAMILY), "merge", **tables)
    residual = merge - merge.mean() / expert.mean() * expert
    expected = residual.std(ddof=1) / 300**0.5 / expert.mean()
    assert relative.stderr == pytest.approx(expected, rel=0.04)
    assert relative.stderr < estimate(raw, "merge", **tables).stderr


def test_normalising_by_a_zero_score_is_refused():
    zero = table(coder=[0.5, 0.0, 0.1, 0.1])
    with pytest.raises(ValueError, match="score on c2"):
        normalised(zero, "merge", ROLES)


def test_experts_or_ceiling_not_above_the_base_are_refused():
    with pytest.raises(ValueError, match=r"coder, frank to be better than base .* -0\.0250"):
        gap_closed(table(frank=[0, 0, 0.0, 0], coder=[0.5, 0.6, 0, 0]), "merge", ROLES)
    with pytest.raises(ValueError, match="multi to be better than base"):
        ceiling_share(table(multi=SCORES["base"]), "merge", ROLES)


def test_metric_without_its_role_is_refused():
    with pytest.raises(ValueError, match="multitask ceiling needs a ceiling in the roles"):
        ceiling_share(TABLE, "merge", replace(ROLES, ceiling=None))
    with pytest.raises(ValueError, match="needs a held-out domain in the roles, got none"):
        forgetting(TABLE, "merge", replace(ROLES, held_out=()))


def test_expert_domains_must_be_distinct_and_not_held_out():
    with pytest.raises(ValueError, match=r"of its own, got \{'x': 'code', 'y': 'code'\}"):
        replace(ROLES, experts={"x": "code", "y": "code"})
    with pytest.raises(ValueError, match=r"a domain of its own, got \{\}"):
        replace(ROLES, experts={})
    with pytest.raises(ValueError, match=r"\['code'\] cannot be both"):
        replace(ROLES, held_out=("code",))


@pytest.mark.parametrize(
    ("lower", "message"),
    [({"c1": 0.5}, r"c2 needs a lower bound, got bounds for \['c1'\]"),
     ({"c1": 1.0}, r"lower bound of c1 must be in \[0, 1\), got 1.0")],
)  # fmt: skip
def test_missing_or_invalid_lower_bound_is_refused(lower, message):
    with pytest.raises(ValueError, match=message):
        above_chance(TABLE, "merge", lower)


LM_EVAL = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
FOLDER = LM_EVAL / "tasks" / "leaderboard"


def task_config(path):
    """A task file as far as plain YAML goes."""
    text = path.read_text(encoding="utf-8").replace("!function", "")
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("bbh_mc/[a-z]*.yaml")), ids=lambda p: p.stem
)
def test_bbh_lower_bound_is_one_over_the_number_of_choices(path):
    config = task_config(path)
    assert LEADERBOARD_V2[config["task"]] == pytest.approx(1 / len(config["doc_to_choice"]))


def test_lower_bounds_cover_exactly_the_leaderboard_tasks():
    groups = (
        task_config(path)["task"]
        for path in FOLDER.glob("*/_*.yaml")
        if "task" in task_config(path)
    )
    named = {task for tasks in groups for task in tasks}
    assert named | {"leaderboard_mmlu_pro"} == LEADERBOARD_V2.keys()


def test_musr_gpqa_and_mmlu_pro_have_published_lower_bounds():
    assert LEADERBOARD_V2["leaderboard_musr_murder_mysteries"] == 1 / 2
    assert LEADERBOARD_V2["leaderboard_musr_object_placements"] == 1 / 5
    assert LEADERBOARD_V2["leaderboard_musr_team_allocation"] == 1 / 3
    assert LEADERBOARD_V2["leaderboard_gpqa_main"] == 1 / 4
    assert LEADERBOARD_V2["leaderboard_mmlu_pro"] == 1 / 10


def test_free_form_tasks_have_lower_bound_zero():
    free = {task for task, bound in LEADERBOARD_V2.items() if bound == 0}
    assert len(free) == 8
    assert {task.split("_")[1] for task in free} == {"math", "ifeval"}
