"""Loading a results folder: valid records, and a list of problems."""

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.records import fingerprint_of, write_record
from eval.results_folder import load_results
from eval.sample_file import Sample
from eval.statistics.scores import raw_score
from tests.made_up_runs import COST, make_record

DOMAINS = {"a": "code", "b": "french"}


def samples(a=(1, 0), b=(1, 1)):
    """Documents h0, h1, ... of two tasks, with these values."""
    return {
        task: [Sample(doc_id=i, doc_hash=f"h{i}", value=v) for i, v in enumerate(values)]
        for task, values in {"a": a, "b": b}.items()
    }


SAMPLES = samples()


def record(name="ties", by_task=SAMPLES, **changes):
    scores = {task: raw_score(s, metric="acc") for task, s in by_task.items()}
    defaults = {"domains": DOMAINS, "started_at": f"2025-01-01T00:00:00 {name}"}
    return make_record(name, scores, **defaults | changes)


def write(root, *records, by_task=SAMPLES):
    return [write_record(root, r, None if r.status != "done" else by_task) for r in records]


def names(root):
    return [r.name for r in load_results(root).records]


def faults(root):
    return {fault.path.as_posix(): fault.message for fault in load_results(root).problems}


SCE, SEME, TIES = record("sce"), record("seme"), record("ties")
AT = "runs/ties-ties-0123456"


@pytest.fixture
def root(tmp_path):
    write(tmp_path, SCE, SEME, TIES)
    return tmp_path


def test_valid_records_are_sorted_by_kind_name_and_fingerprint(root):
    write(root, record("a", kind="reference"))
    results = load_results(root)
    assert [r.name for r in results.records] == ["sce", "seme", "ties", "a"]
    assert results.records[2] == TIES
    assert results.problems == ()


def test_absent_folder_has_no_records(tmp_path):
    assert load_results(tmp_path / "absent").records == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is not a readable record: Expecting property name"),
        ('{"schema_version": 9}', "schema_version must be 1, got 9; delete its folder to run"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_damaged_record_is_reported_and_the_rest_read(root, text, part):
    (root / AT / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    assert names(root) == ["sce", "seme"]
    ((path, message),) = faults(root).items()
    assert path == f"{AT}/record.json"
    assert part in message
    assert str(root) not in message


def test_damaged_samples_exclude_their_record(root):
    (root / AT / "samples.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-3])
    assert names(root) == ["sce", "seme"]
    ((path, message),) = faults(root).items()
    assert path == f"{AT}/samples.jsonl.gz"
    assert "end-of-stream marker" in message


def test_samples_contradicting_the_scores_are_reported(root):
    write(root, TIES, by_task=samples(a=(1, 1)))
    assert names(root) == ["sce", "seme"]
    message = faults(root)[f"{AT}/samples.jsonl.gz"]
    assert message.startswith("cannot be used: a: ")
    assert "0.5, they give 1.0" in message


def test_a_record_without_samples_is_read(root):
    (root / AT / "samples.jsonl.gz").unlink()
    assert names(root) == ["sce", "seme", "ties"]
    assert faults(root) == {}


def copied(root, to, **changes):
    """Another folder with the record of TIES, changed."""
    folder = root / "runs" / to
    shutil.copytree(root / AT, folder)
    content = json.loads((folder / "record.json").read_text()) | changes
    (folder / "record.json").write_text(json.dumps(content))
    return folder


def test_records_with_equal_fingerprint_and_scores_are_one(root):
    copied(root, "copy-of-ties", started_at="later", seconds_total=9.0)
    results = load_results(root)
    assert [r.name for r in results.records] == ["sce", "seme", "ties"]
    assert results.records[2] == TIES
    assert results.problems == ()


def test_records_with_equal_fingerprint_but_other_scores_are_excluded(root):
    folder = copied(root, "copy-of-ties")
    other = samples(a=(1, 1))
    write_record(root / "elsewhere", replace(TIES, scores=record(by_task=other).scores), other)
    shutil.copytree(root / "elsewhere" / AT, folder, dirs_exist_ok=True)
    assert names(root) == ["sce", "seme"]
    copy, original = "runs/copy-of-ties/record.json", f"{AT}/record.json"
    messages = faults(root)
    assert messages.keys() == {copy, original}
    assert re.search(f"{original} .*ties-0123456.*a is 1 over 2 .* 0.5 over 2", messages[copy])
    assert re.search(f"{copy} .*ties-0123456.*a is 0.5 over 2 .* 1 over 2", messages[original])


def test_scores_differing_by_rounding_are_equal(root):
    scores = json.loads((root / AT / "record.json").read_text())["scores"]
    scores[0]["value"] *= 1 + 1e-11
    copied(root, "copy-of-ties", scores=scores)
    assert faults(root) == {}


def test_failed_duplicate_of_a_finished_run_is_dropped(root):
    write(root, replace(TIES, name="b", status="failed", error="disk full", scores={}))
    (root / AT / "samples.jsonl.gz").unlink()
    assert load_results(root).records == (SCE, SEME, TIES)
    assert faults(root) == {}


def test_duplicate_failures_are_one_record(tmp_path):
    failed = replace(TIES, status="failed", error="disk full", scores={})
    write(tmp_path, failed, replace(failed, name="b"))
    assert names(tmp_path) == ["b"]


def test_record_lacking_a_common_task_is_reported_and_kept(root):
    lacking = replace(TIES, scores={"a": TIES.scores["a"]}, domains={"a": "code"})
    write(root, lacking, by_task={"a": SAMPLES["a"]})
    assert load_results(root).records[2] == lacking
    assert faults(root).keys() == {f"{AT}/record.json"}
    assert "['b']" in faults(root)[f"{AT}/record.json"]


def test_record_with_an_extra_task_is_excluded(root):
    more = {**SAMPLES, "c": SAMPLES["a"]}
    write(root, record(by_task=more, domains={**DOMAINS, "c": "code"}), by_task=more)
    assert names(root) == ["sce", "seme"]
    assert "it has the tasks ['c'], most have not" in faults(root)[f"{AT}/record.json"]


def test_records_on_other_documents_are_excluded(root):
    other = {**SAMPLES, "a": [replace(s, doc_hash=f"x{s.doc_id}") for s in SAMPLES["a"]]}
    write(root, TIES, by_task=other)
    assert names(root) == ["sce", "seme"]
    (message,) = faults(root).values()
    assert "tasks.a.contents" in message


def test_earlier_of_two_contradicting_runs_is_kept(tmp_path):
    fewer = samples(a=(1, 0, 1))
    write(tmp_path, SEME)
    write(tmp_path, record("zebra", fewer, started_at="2024"), by_task=fewer)
    assert names(tmp_path) == ["zebra"]
    (message,) = faults(tmp_path).values()
    assert "tasks.a.documents is 2, mostly 3" in message


def test_runs_of_other_suites_or_precisions_are_not_compared(root):
    fewer = samples(a=(1, 0, 1))
    suite = replace(TIES.suite, fingerprint="t")
    write(root, record("other", fewer, suite=suite), by_task=fewer)
    write(root, record("gpu", evaluation_cost=replace(COST, peak_gpu_bytes=5)))
    assert names(root) == ["gpu", "other", "sce", "seme", "ties"]
    assert faults(root) == {}


def test_facts_absent_in_older_records_are_not_compared(root):
    write(
        root, record("new", suite=replace(TIES.suite, more={"limit": None, "lm_eval": "0.4"}))
    )
    assert names(root) == ["new", "sce", "seme", "ties"]
    assert faults(root) == {}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"settings": {"lam": 2.0}}, r"\['hyper_parameters'\] must be as in"),
        ({"seed": 5}, r"\['seed'\] must be as in provenance"),
        ({"fingerprint": "0" * 32}, "identity must hash to the fingerprint"),
    ],
)
def test_edited_record_is_excluded(tmp_path, change, part):
    identity = {"method": "ties", "hyper_parameters": {"lam": 1.0}, "seed": 0, "suite": "test"}
    facts = {"fingerprint": fingerprint_of(identity), "provenance": {"identity": identity}}
    whole = record(settings={"lam": 1.0}, **facts)
    (path,) = write(tmp_path, whole)
    assert (names(tmp_path), faults(tmp_path)) == (["ties"], {})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert names(tmp_path) == []
    (message,) = faults(tmp_path).values()
    assert re.search(part, message)


def test_published_records_are_valid(repository):
    for folder in ("published", "published/heterogeneous"):
        results = load_results(Path(repository) / "results" / folder)
        assert results.problems == ()
        assert len(results.records) > 20
