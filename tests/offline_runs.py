"""Records to log, and a reader of wandb's offline files."""

import json
import struct
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

from eval.records import ModelRef, PoolRef, StageCost, write_record
from eval.sample_file import Sample
from tests import made_up_runs
from tests.made_up_runs import score

WANDB = {
    "mode": "offline",
    "project": "seme-bench",
    "entity": None,
    "tags": ["x"],
}
COST = StageCost(
    seconds=0.25, peak_rss_bytes=900, base_rss_bytes=100, peak_anon_bytes=500,
    peak_gpu_bytes=None, source="VmHWM",
)  # fmt: skip


def model(name, folder="models"):
    return ModelRef(
        name=name, location=f"{folder}/{name}", revision=None, content_hash=f"hash-of-{name}"
    )


def make_record(name="ties", value=0.5, **changes):
    models = PoolRef(
        pool="zoo", pivot=model("base"), sources=(model("code"), model("french")), references=()
    )
    defaults = {
        "fingerprint": f"{name}56789abcdef", "settings": {"density": 0.1}, "models": models,
        "seed": 3, "dtype": "bfloat16", "merge_cost": COST, "evaluation_cost": None,
        "merge": {"n_merged": 7},
    }  # fmt: skip
    scores = {"code": score(value, n=2), "french": score(0.25, n=2)}
    return made_up_runs.make_record(name, scores, **defaults | changes)


def make_reference(name="base"):
    models = PoolRef(pool="zoo", pivot=model(name), sources=(), references=())
    changes = {"kind": "reference", "models": models, "settings": {}, "merge": {}}
    return make_record(name, 0.25, **changes, merge_cost=None)


def write_three(root):
    """Two merges, one of them better, and their pivot; returns the folder."""
    for record in (make_record(), make_record("dare", 0.75), make_reference("base")):
        write(root, record)
    return root


def write(root, record):
    """Write a record with two samples per task; returns its path."""
    samples = {
        task: [Sample(doc_id=i, doc_hash=f"{task}{i}", value=s.value) for i in range(2)]
        for task, s in record.scores.items()
    }
    return write_record(root, record, samples)


_CHUNK = struct.Struct("<IHB")  # checksum, size, kind


def records_in(path):
    """Yield the records of a ``.wandb`` file: LevelDB's log format after 7 bytes of header."""
    content, place, record = path.read_bytes(), 7, b""
    while place + _CHUNK.size <= len(content):
        if (left := 32768 - place % 32768) < _CHUNK.size:  # zeros up to the border
            place += left
            continue
        _, size, kind = _CHUNK.unpack_from(content, place)
        record += content[place + _CHUNK.size : place + _CHUNK.size + size]
        place += _CHUNK.size + size
        if kind in (1, 4):  # a record in one chunk, the last chunk of several
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def read_run(path):
    """Records of one offline run; wandb writes the last of them a moment after finish()."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        records = list(records_in(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} never got its last record")


def read_back(root):
    """One list of records per offline run of a results folder, in order of the run's name."""
    runs = [read_run(path) for path in Path(root).glob("wandb/offline-run-*/*.wandb")]
    return sorted(runs, key=lambda records: run_and_summary(records)[0].display_name)


def run_and_summary(records):
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    summary = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                summary[key] = json.loads(item.value_json)
    return run, summary


def artifact_files(records, kind):
    """Content of every file of the run's artifact of this type, by name."""
    (artifact,) = (
        r.artifact
        for r in records
        if r.WhichOneof("record_type") == "artifact" and r.artifact.type == kind
    )
    return {e.path: Path(e.local_path).read_bytes() for e in artifact.manifest.contents}


def exit_code(records):
    (code,) = (r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit")
    return code
