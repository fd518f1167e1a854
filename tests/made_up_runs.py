"""Made-up records, and samples as a results folder holds them."""

import hashlib
import json
import math

import numpy as np

from eval.leaderboard.board import boards_of
from eval.records import ModelRef, PoolRef, Record, Score, StageCost, SuiteRef
from eval.sample_file import SampleTable
from eval.statistics.samples import MatchedTask, Panel, Run, run_of

DOMAINS = {"a": "code", "b": "code", "c": "french"}
MIB = 2**20


def stage_cost(seconds=1.0, mib=0, **changes):
    """Cost of a stage whose peak is so many MiB above 100 MiB."""
    values = {
        "seconds": seconds, "peak_rss_bytes": (100 + mib) * MIB, "base_rss_bytes": 100 * MIB,
        "peak_anon_bytes": None, "peak_gpu_bytes": None, "source": "VmHWM",
    }  # fmt: skip
    return StageCost(**values | changes)


COST = stage_cost()


def model_ref(name, location=None):
    """A model whose content hash is derived from its name."""
    location = name if location is None else location
    return ModelRef(name=name, location=location, revision=None, content_hash=f"hash-{name}")


def pool_ref(name="zoo", pivot="base", sources=(), references=()):
    """A pool of models given by name."""
    return PoolRef(
        pool=name, pivot=model_ref(pivot), sources=tuple(map(model_ref, sources)),
        references=tuple(map(model_ref, references)),
    )  # fmt: skip


def suite_ref(split="test", **changes):
    values = {"name": "zoo", "split": split, "fingerprint": split, "held_out": ()}
    return SuiteRef(**values | changes)


def score(value, stderr=0.1, n=200, metric="acc"):
    return Score(
        value=value, stderr=stderr, n=n, raw=value, raw_metric=metric, higher_is_better=True
    )


def make_record(name="ties", values=None, **changes):
    """A finished merge with these scores by task, fractions or Scores; a domain per task."""
    scores = {t: v if isinstance(v, Score) else score(v) for t, v in (values or {}).items()}
    entries = {
        "fingerprint": f"{name}-0123456789abcdef", "kind": "merge", "status": "done",
        "name": name, "settings": {}, "models": pool_ref(), "suite": suite_ref(), "seed": 0,
        "dtype": None, "scores": scores, "domains": {task: task for task in scores},
        "merge_cost": None, "evaluation_cost": COST, "merge": {}, "error": None,
        "provenance": {}, "started_at": "", "seconds_total": 1.0,
    }  # fmt: skip
    return Record(**entries | changes)


def made_up_run(name, settings, value, split="validation", seed=0, status="done"):
    """A merge with the score ``value`` on every task."""
    identity = json.dumps([name, settings, split, seed], sort_keys=True)
    values = dict.fromkeys(DOMAINS, score(value, stderr=0.01)) if status == "done" else {}
    return make_record(
        name, values, settings=settings, seed=seed, status=status, domains=DOMAINS,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:32], suite=suite_ref(split),
        error=None if status == "done" else "out of memory",
        started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def panel(*totals_by_task, runs=("ties", "sce"), is_bits=False):
    """Tasks t0, t1, ... of domains of their own; per-document scores, or bits of one byte."""
    tasks = {
        f"t{i}": MatchedTask(
            totals=np.array(totals, float), sizes=np.ones(len(totals[0])), is_bits=is_bits
        )
        for i, totals in enumerate(totals_by_task)
    }
    return Panel(runs=tuple(runs), domains={name: name for name in tasks}, tasks=tasks)


def bare_boards(records):
    """Boards of records without samples."""
    return boards_of([Run(record=record, samples=None) for record in records])


def sample_table(samples):
    """Samples of one task as columns."""
    return SampleTable(
        doc_hashes=tuple(s.doc_hash for s in samples),
        values=np.array([s.value for s in samples], float),
        loglikelihoods=np.array(
            [math.nan if s.loglikelihood is None else s.loglikelihood for s in samples]
        ),
        n_bytes=np.array([s.n_bytes or 0 for s in samples], float),
        n_units=np.array([s.n_units or 0 for s in samples], float),
    )


def run_with(record, samples):
    """A run with these samples by task."""
    return run_of(
        record, {task: sample_table(task_samples) for task, task_samples in samples.items()}
    )
