"""Records of runs that nobody ran."""

import hashlib
import json

from eval.records import Record, Score, StageCost

DOMAINS = {"a": "code", "b": "code", "c": "french"}
_COST = StageCost(
    seconds=1.0, peak_rss_bytes=1, base_rss_bytes=1, peak_anon_bytes=None, peak_gpu_bytes=None,
    source="VmHWM",
)  # fmt: skip
_MODELS = {
    "pool": "zoo", "sources": [], "references": [],
    "pivot": {"name": "base", "location": "base", "revision": None, "content_hash": "hash"},
}  # fmt: skip


def made_up_run(name, settings, value, split="validation", seed=0, status="done"):
    """A merge with the score ``value`` on every task."""
    told = json.dumps([name, settings, split, seed], sort_keys=True)
    score = Score(
        value=value, stderr=0.01, n=200, raw=value, raw_metric="acc", higher_is_better=True
    )
    return Record(
        fingerprint=hashlib.sha256(told.encode()).hexdigest()[:32], kind="merge", status=status,
        name=name, settings=settings, models=_MODELS, seed=seed, dtype=None,
        suite={"name": split, "split": split, "fingerprint": split, "held_out": []},
        scores=dict.fromkeys(DOMAINS, score) if status == "done" else {},
        domains=DOMAINS, merge_cost=None, evaluation_cost=_COST, merge={},
        error=None if status == "done" else "out of memory", provenance={},
        started_at="2026-01-01T00:00:00+00:00", seconds_total=1.0,
    )  # fmt: skip
