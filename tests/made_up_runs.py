"""Made-up runs: records, and samples as a results folder holds them."""

import hashlib
import json
import math

import numpy as np

from eval.records import ModelRef, PoolRef, Record, SampleTable, Score, StageCost, SuiteRef
from eval.statistics.samples import Run, run_of

DOMAINS = {"a": "code", "b": "code", "c": "french"}
_COST = StageCost(
    seconds=1.0, peak_rss_bytes=1, base_rss_bytes=1, peak_anon_bytes=None, peak_gpu_bytes=None,
    source="VmHWM",
)  # fmt: skip
_MODELS = PoolRef(
    pool="zoo", sources=(), references=(),
    pivot=ModelRef(name="base", location="base", revision=None, content_hash="hash"))  # fmt: skip


def made_up_run(name, settings, value, split="validation", seed=0, status="done"):
    """A merge with the score ``value`` on every task."""
    identity = json.dumps([name, settings, split, seed], sort_keys=True)
    score = Score(
        value=value, stderr=0.01, n=200, raw=value, raw_metric="acc", higher_is_better=True
    )
    return Record(
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:32], kind="merge", status=status,
        name=name, settings=settings, models=_MODELS, seed=seed, dtype=None,
        suite=SuiteRef(name=split, split=split, fingerprint=split, held_out=()),
        scores=dict.fromkeys(DOMAINS, score) if status == "done" else {},
        domains=DOMAINS, merge_cost=None, evaluation_cost=_COST, merge={},
        error=None if status == "done" else "out of memory", provenance={},
        started_at="2026-01-01T00:00:00+00:00", seconds_total=1.0,
    )  # fmt: skip


def bare_runs(records):
    """Runs without samples."""
    return [Run(record=record, samples=None) for record in records]


def sample_table(samples):
    """Samples of one task as columns."""
    return SampleTable(
        doc_hashes=tuple(s.doc_hash for s in samples),
        values=np.array([s.value for s in samples], float),
        loglikelihoods=np.array(
            [math.nan if s.loglikelihood is None else s.loglikelihood for s in samples]
        ),
        n_bytes=np.array([s.n_bytes or 0 for s in samples], float),
    )


def run_with(record, samples):
    """A run with these samples by task."""
    return run_of(
        record, {task: sample_table(task_samples) for task, task_samples in samples.items()}
    )
