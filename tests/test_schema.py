import json
from copy import deepcopy
from dataclasses import fields

import pytest

from eval import schema
from eval.records import Record, Sample, Score, StageCost, check_record, check_sample

MODEL = {"name": "base", "location": "models/base", "revision": None, "content_hash": "h"}
COST = {
    "seconds": 1, "peak_rss_bytes": 2, "base_rss_bytes": 1, "peak_anon_bytes": None,
    "peak_gpu_bytes": None, "source": "VmHWM",
}  # fmt: skip
SCORE = {
    "task": "a", "value": 0.5, "stderr": 0, "n": 4, "raw": 1.5, "raw_metric": "acc",
    "higher_is_better": True,
}  # fmt: skip
FOUND = {
    "schema_version": 1, "fingerprint": "f", "kind": "merge", "status": "done", "name": "ties",
    "settings": {"lam": [1, {"any": "thing"}]},
    "models": {"pool": "zoo", "pivot": MODEL, "sources": [MODEL], "references": []},
    "suite": {"name": "zoo", "split": None, "fingerprint": "s", "held_out": [], "more": 1},
    "seed": 0, "dtype": None, "scores": [SCORE], "domains": {"a": "code", "b": "code"},
    "merge_cost": COST, "evaluation_cost": None, "merge": {}, "error": None, "provenance": {},
    "started_at": "", "seconds_total": 1,
}  # fmt: skip


def changed(path, value):
    """The record with one entry, named by its path, replaced."""
    found = deepcopy(FOUND)
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = found
    for parent in parents:
        place = place[parent]
    place[last] = value
    return found


def test_a_record_with_free_settings_and_more_of_its_suite_passes():
    check_record(FOUND)
    check_record(changed("suite", None))


def test_the_schema_names_every_entry_of_what_is_written():
    names = {cls: {f.name for f in fields(cls)} for cls in (Record, Score, StageCost, Sample)}
    assert schema._RECORD.keys() == names[Record]
    assert schema._SCORE.keys() == names[Score] | {"task"}
    assert schema._COST.keys() == names[StageCost]
    assert schema._SAMPLE.keys() <= names[Sample] | {"task"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 2, "^schema_version must be 1, got 2"),
        ("kind", None, "^kind must be a text, got None"),
        ("seed", True, "^seed must be a whole number, got True"),
        ("dtype", 16, "^dtype must be a text or null, got 16"),
        ("models", [], r"^models must be an object, got \[\]"),
        ("models.pivot", "base", "^models.pivot must be an object, got 'base'"),
        ("models.sources", {}, r"^models.sources must be a list, got \{\}"),
        ("models.sources.0", {"name": "x"}, r"sources.0: .* missing keys \['content_hash'\]"),
        ("models.references", [7], "^models.references.0 must be an object, got a whole number"),
        ("suite", {"name": "zoo"}, r"^suite: .* missing keys \['fingerprint', 'held_out', 's"),
        ("suite.fingerprint", None, "^suite.fingerprint must be a text, got None"),
        ("merge_cost.peak_rss_bytes", 1.5, "merge_cost.peak_rss_bytes must be a whole number, g"),
        ("evaluation_cost", {}, "^evaluation_cost: unknown keys .*, missing keys .*'seconds'"),
        ("scores.0.value", "0.5", "^scores.0.value must be a number, got '0.5'"),
        ("scores.0.higher_is_better", 1, "^scores.0.higher_is_better must be true or false, g"),
        ("scores", [SCORE, SCORE], r"name every task once, they have \['a'\] twice"),
        ("domains", {"b": "code"}, r"domains must name the tasks of all scores, .* \['a'\]"),
        ("domains.b", 3, "^domains.b must be a text, got 3"),
        ("colour", "red", r"^unknown keys \['colour'\], missing keys \[\]"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_record_is_named_by_its_path(path, value, message):
    with pytest.raises(ValueError, match=message):
        check_record(changed(path, value))


@pytest.mark.parametrize(
    ("text", "kind"), [("[]", "a list"), ("null", "null"), ('"x"', "a text")]
)
def test_json_that_is_no_object_is_no_record(text, kind):
    with pytest.raises(ValueError, match=f"expected an object, got {kind}"):
        check_record(json.loads(text))


def test_a_missing_entry_is_named():
    found = {key: value for key, value in FOUND.items() if key != "suite"}
    with pytest.raises(ValueError, match=r"unknown keys \[\], missing keys \['suite'\]"):
        check_record(found)


def test_a_sample_needs_its_document_and_a_number():
    sample = {"task": "a", "doc_id": 0, "doc_hash": "h", "value": 1, "n_bytes": 3}
    check_sample(sample)
    with pytest.raises(ValueError, match=r"value must be a number, got 'x'"):
        check_sample(sample | {"value": "x"})
    with pytest.raises(ValueError, match=r"missing keys \['doc_hash'\]"):
        check_sample({k: v for k, v in sample.items() if k != "doc_hash"})
