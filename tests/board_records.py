"""Records of one leaderboard board: a base, complete, partial and failed merges."""

from dataclasses import replace

from eval.metric_kinds import TaskMetric
from tests.made_up_runs import make_record, pool_ref, score, stage_cost, suite_ref

SUITE = suite_ref(fingerprint="s", held_out=("spanish",))


def record(name, *scores, **changes):
    """A merge with these scores on code and Spanish."""
    values = zip(("code", "spanish"), scores, strict=False)
    defaults = {
        "fingerprint": f"{name}-0123456789", "settings": {"lam": 1.0, "tau": 0.1},
        "models": pool_ref(sources=("code",)), "suite": SUITE, "dtype": "bfloat16",
        "domains": {"code": "code", "spanish": "spanish"}, "merge_cost": stage_cost(0.25, 50),
        "evaluation_cost": stage_cost(7.0),
        "merge": {"n_merged": 3, "diagnostics": {"sources": [{"condition": 31.5}]}},
        "provenance": {"git": {"revision": "abc", "dirty": False}},
    }  # fmt: skip
    scored = {task: score(value, 0.03) for task, value in values}
    return make_record(name, scored, **defaults | changes)


def unmerged(name, *scores, **changes):
    """A model scored by itself."""
    defaults = {
        "kind": "reference", "settings": {}, "merge_cost": None, "models": pool_ref(pivot=name),
    }  # fmt: skip
    return record(name, *(scores or (0.2, 0.4)), **defaults | changes)


BASE = unmerged("base")
TIES, SEME = record("ties", 0.5, 0.4), record("seme", 0.6, 0.5)
PARTIAL = record("sce", 0.99)
FAILED = record("dare", status="failed", error="NaN in a|b\nTraceback", evaluation_cost=None)
WHOLE = [FAILED, TIES, SEME, BASE]
ALL = [*WHOLE, PARTIAL]


def with_metric(record, value, stderr=0.02, task="cola"):
    """Add a task that is in no mean, scored by the Matthews correlation."""
    entries = {"metric": "mcc", "filter": "none", "score": "reported"}
    suite = replace(record.suite, more={"tasks": {task: entries}})
    metric = TaskMetric(value=value, stderr=stderr, n=9, higher_is_better=True)
    return replace(record, suite=suite, metrics={task: {"mcc,none": metric}})
