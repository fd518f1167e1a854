import json
import math
from copy import deepcopy
from dataclasses import replace

import pytest

from eval.metric_kinds import TaskMetric
from eval.records import Score, find_done, read_record, record_json, write_record
from eval.sample_file import Sample
from tests.made_up_runs import COST, make_record

SCORE = Score(value=0.5, stderr=0.1, n=4, raw=1.0, raw_metric="bpb", higher_is_better=False)
RECORD = make_record(
    "ties", {"zebra": SCORE, "ape": replace(SCORE, value=0.25)}, fingerprint="0123456789abcdef",
    settings={"density": 0.1}, dtype="bfloat16", merge_cost=COST, evaluation_cost=None,
    merge={"n_merged": 3}, provenance={"python": "3.11"}, seconds_total=1.5,
)  # fmt: skip
SAMPLES = {
    "zebra": [Sample(doc_id=0, doc_hash="h", value=0.1, loglikelihood=-3.25, n_bytes=7)],
    "ape": [
        Sample(doc_id=0, doc_hash="g", value=1.0),
        Sample(doc_id=1, doc_hash="i", value=0.0),
    ],
}


def test_a_group_with_a_metric_is_listed_in_place_of_its_tasks():
    f1 = TaskMetric(value=0.5, stderr=None, n=3, higher_is_better=True)
    entries = {"metric": "f1", "filter": "none", "score": "reported"}
    tasks = {"a": entries | {"group": "g"}, "b": entries | {"group": "g"}, "c": entries}
    suite = replace(RECORD.suite, more={"tasks": tasks})
    record = replace(
        RECORD, suite=suite, metrics={name: {"f1,none": f1} for name in ("a", "b", "c")}
    )
    assert list(record.reported) == ["a", "b", "c"]
    with_group = replace(record, metrics={**record.metrics, "g": {"f1,none": f1}})
    assert with_group.reported == {"g": ("f1,none", f1), "c": ("f1,none", f1)}


def test_the_evaluator_is_in_a_record_that_has_one(tmp_path):
    assert "evaluator" not in json.loads(record_json(RECORD))
    ran = replace(RECORD, evaluator={"backend": "hf", "device": "cpu", "processes": 2})
    assert read_record(write_record(tmp_path, ran, None)) == ran


def test_record_round_trips_with_task_order(tmp_path):
    path = write_record(tmp_path, RECORD, None)
    assert path == tmp_path / "runs" / "ties-0123456789ab" / "record.json"
    read = read_record(path)
    assert read == RECORD
    assert list(read.scores) == ["zebra", "ape"]


def test_written_files_are_reproducible(tmp_path):
    first, second = (write_record(tmp_path / n, RECORD, SAMPLES).parent for n in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["record.json", "samples.jsonl.gz"]
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names)
    assert (first / names[1]).read_bytes()[4:8] == bytes(4)  # gzip's time stamp


def test_record_json_is_sorted_and_ends_with_a_newline(tmp_path):
    text = write_record(tmp_path, RECORD, None).read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_find_done_matches_the_whole_fingerprint(tmp_path):
    write_record(tmp_path, RECORD, None)
    assert find_done(tmp_path, "ties", RECORD.fingerprint) == RECORD
    assert find_done(tmp_path, "ties", RECORD.fingerprint[:12] + "beef") is None
    assert find_done(tmp_path, "sce", RECORD.fingerprint) is None


def test_failed_run_is_readable_but_not_done(tmp_path):
    failed = replace(RECORD, status="failed", error="NaN in a", scores={})
    assert read_record(write_record(tmp_path, failed, None)) == failed
    assert find_done(tmp_path, "ties", RECORD.fingerprint) is None


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="record of ties cannot be written as JSON"):
        write_record(tmp_path, replace(RECORD, settings={"tau": math.nan}), SAMPLES)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [math.nan, -0.01, 1.01])
def test_a_score_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"a score must be in \[0, 1\]"):
        replace(SCORE, value=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version must be 1, got 2"),
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"kind": "mrege"}, "kind must be one of"),
        ({"scores": [{"task": "a"}]}, r"scores.0: unknown keys \[\], missing keys \['higher"),
    ],
)
def test_invalid_record_is_named_with_advice(tmp_path, change, message):
    path = write_record(tmp_path, RECORD, None)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"ties-0123456789ab/record.json is not .*{message}"):
        read_record(path)
    with pytest.raises(ValueError, match="delete its folder to run it again"):
        find_done(tmp_path, "ties", RECORD.fingerprint)


def test_truncated_record_is_refused(tmp_path):
    path = write_record(tmp_path, RECORD, None)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"record.json is not a readable record"):
        read_record(path)


def test_record_path_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(ValueError, match=r"not a readable record: Is a directory; delete"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("name", ["", "../x", "org/model", ".hidden"])
def test_name_unusable_as_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="name must be usable as a folder's name"):
        replace(RECORD, name=name)


def test_finished_record_with_an_error_is_refused():
    with pytest.raises(ValueError, match="not done, and no other, has an error, got 'boom'"):
        replace(RECORD, error="boom")


MODEL_JSON = {
    "name": "base",
    "location": "models/base",
    "revision": None,
    "content_hash": "h",
    "commit": "c",
}
COST_JSON = {
    "seconds": 1, "peak_rss_bytes": 2, "base_rss_bytes": 1, "peak_anon_bytes": None,
    "peak_gpu_bytes": None, "source": "VmHWM",
}  # fmt: skip
SCORE_JSON = {
    "task": "a", "value": 0.5, "stderr": 0, "n": 4, "raw": 1.5, "raw_metric": "acc",
    "higher_is_better": True,
}  # fmt: skip
RECORD_JSON = {
    "schema_version": 1, "fingerprint": "f", "kind": "merge", "status": "done", "name": "ties",
    "settings": {"lam": [1, {"any": "thing"}]},
    "models": {"pool": "zoo", "pivot": MODEL_JSON, "sources": [MODEL_JSON], "references": []},
    "suite": {"name": "zoo", "split": None, "fingerprint": "s", "held_out": [], "limit": 1},
    "seed": 0, "dtype": None, "scores": [SCORE_JSON], "domains": {"a": "code", "b": "code"},
    "merge_cost": COST_JSON, "evaluation_cost": None, "merge": {}, "error": None,
    "provenance": {}, "started_at": "", "seconds_total": 1,
}  # fmt: skip


def changed(path, value):
    """The record with one entry, named by its path, replaced."""
    entries = deepcopy(RECORD_JSON)
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = entries
    for parent in parents:
        place = place[parent]
    place[last] = value
    return entries


def build_record(folder, entries):
    (folder / "record.json").write_text(json.dumps(entries))
    return read_record(folder / "record.json")


def test_extra_entries_of_settings_models_and_suite_are_kept(tmp_path):
    record = build_record(tmp_path, RECORD_JSON)
    assert record.settings == {"lam": [1, {"any": "thing"}]}
    assert record.suite.more == {"limit": 1}
    assert record.models.pivot.more == {"commit": "c"}
    assert json.loads(record_json(record)) == RECORD_JSON
    assert build_record(tmp_path, changed("suite", None)).suite is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 2, ": schema_version must be 1, got 2"),
        ("seed", True, ": seed must be a whole number, got True"),
        ("models.pivot", "base", ": models.pivot must be an object, got 'base'"),
        ("models.sources", {}, r": models.sources must be a list, got \{\}"),
        ("models.sources.0", {"name": "x"}, r"sources.0: .* missing keys \['content_hash', "),
        ("suite", {"name": "zoo"}, r": suite: .* missing keys \['fingerprint', 'held_out', 's"),
        ("evaluation_cost", {}, ": evaluation_cost: unknown keys .*, missing keys .*'seconds'"),
        ("scores.0.value", "0.5", ": scores.0.value must be a number, got '0.5'"),
        ("scores", [SCORE_JSON, SCORE_JSON], r"name every task once, 'a' is there twice"),
        ("domains", {"b": "code"}, r"domains must name the tasks of all scores, .* \['a'\]"),
        ("colour", "red", r": unknown keys \['colour'\], missing keys \[\]"),
    ],
)  # fmt: skip
def test_invalid_entry_is_named_by_its_path(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=message):
        build_record(tmp_path, changed(path, value))


@pytest.mark.parametrize(
    ("text", "kind"), [("[]", "a list"), ("null", "null"), ('"x"', "a text")]
)
def test_non_object_json_is_refused(tmp_path, text, kind):
    with pytest.raises(ValueError, match=f"expected an object, got {kind}"):
        build_record(tmp_path, json.loads(text))


def test_a_missing_entry_is_named(tmp_path):
    entries = {key: value for key, value in RECORD_JSON.items() if key != "suite"}
    with pytest.raises(ValueError, match=r"unknown keys \[\], missing keys \['suite'\]"):
        build_record(tmp_path, entries)


def test_metrics_outside_the_mean_round_trip_and_are_left_out_where_there_are_none(tmp_path):
    assert "metrics" not in json.loads(record_json(RECORD))
    metric = TaskMetric(value=0.25, stderr=None, n=3, higher_is_better=False)
    record = replace(RECORD, metrics={"zebra": {"ter,none": metric}})
    assert read_record(write_record(tmp_path, record, None)) == record
