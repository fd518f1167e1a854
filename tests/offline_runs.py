"""Records to log, and reading back the files that wandb leaves offline."""

import json
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

from eval.records import (
    ModelRef,
    PoolRef,
    Record,
    Sample,
    Score,
    StageCost,
    SuiteRef,
    write_record,
)
from eval.tracking.offline_run import records_in

WANDB = {
    "name": "wandb",
    "mode": "offline",
    "project": "seme-bench",
    "entity": None,
    "tags": ["x"],
}
COST = StageCost(
    seconds=0.25, peak_rss_bytes=900, base_rss_bytes=100, peak_anon_bytes=500,
    peak_gpu_bytes=None, source="VmHWM",
)  # fmt: skip
SUITE = SuiteRef(name="zoo", split="test", fingerprint="s", held_out=())


def score(value):
    return Score(
        value=value, stderr=0.1, n=2, raw=value, raw_metric="acc", higher_is_better=True
    )


def model(name, folder="models"):
    return ModelRef(
        name=name, location=f"{folder}/{name}", revision=None, content_hash=f"hash-of-{name}"
    )


def make_record(name="ties", value=0.5, **changes):
    models = PoolRef(
        pool="zoo", pivot=model("base"), sources=(model("code"), model("french")), references=()
    )
    values = {
        "fingerprint": f"{name}56789abcdef", "kind": "merge", "status": "done", "name": name,
        "settings": {"density": 0.1}, "models": models, "suite": SUITE, "seed": 3,
        "dtype": "bfloat16", "scores": {"code": score(value), "french": score(0.25)},
        "domains": {"code": "code", "french": "french"}, "merge_cost": COST,
        "evaluation_cost": None, "merge": {"n_merged": 7}, "error": None, "provenance": {},
        "started_at": "2025-01-01T00:00:00+00:00", "seconds_total": 1.5,
    }  # fmt: skip
    return Record(**values | changes)


def make_reference(name="base"):
    models = PoolRef(pool="zoo", pivot=model(name), sources=(), references=())
    changes = {"kind": "reference", "models": models, "settings": {}, "merge": {}}
    return make_record(name, 0.25, **changes, merge_cost=None)


def write(root, record):
    """Write a record with two samples per task, and say where."""
    samples = {
        task: [Sample(doc_id=i, doc_hash=f"{task}{i}", value=s.value) for i in range(2)]
        for task, s in record.scores.items()
    }
    return write_record(root, record, samples)


def read_run(path):
    """Records of one offline run; wandb writes the last of them a moment after finish()."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        records = [wandb_internal_pb2.Record.FromString(record) for record in records_in(path)]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} never got its last record")


def read_back(folder):
    """Everything the offline runs under a folder left: one list of records a run."""
    return [read_run(path) for path in sorted(Path(folder).rglob("*.wandb"))]


def run_and_summary(records):
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    summary = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                summary[key] = json.loads(item.value_json)
    return run, summary


def artifacts_of(records):
    return [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]


def used_and_made(records):
    """Names of the artifacts that a run used and made, less its tables."""
    found = [a for a in artifacts_of(records) if a.type != "tables"]
    return (
        [a.name for a in found if a.use_after_commit],
        [a.name for a in found if not a.use_after_commit],
    )
