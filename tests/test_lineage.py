"""The steps from the models to the score."""

import json
from dataclasses import replace

import pytest

from eval.records import PoolRef
from eval.schema import to_json
from eval.tracking.lineage import steps_of
from tests.offline_runs import make_record, make_reference, model, write


def names(artifacts):
    return [artifact.name for artifact in artifacts]


def test_a_merge_leads_from_its_models_to_its_score(tmp_path):
    record = make_record()
    merge, evaluation = steps_of(record, write(tmp_path, record))
    assert (merge.job, evaluation.job) == ("merge", "evaluation")
    assert names(merge.used) == [f"model-hash-of-{m}" for m in ("base", "code", "french")]
    assert evaluation.used == (merge.made,)
    assert names([merge.made, evaluation.made]) == [
        "merge-ties-ties56789abc", "score-ties-ties56789abc",
    ]  # fmt: skip


def test_an_unmerged_model_is_what_its_score_stands_on(tmp_path):
    record = make_reference("base")
    (step,) = steps_of(record, write(tmp_path, record))
    assert (step.job, names(step.used)) == ("evaluation", ["model-hash-of-base"])
    assert step.made.kind == "score"


def test_a_merge_that_was_not_evaluated_holds_the_record_itself(tmp_path):
    record = make_record(suite=None, scores={}, domains={})
    (step,) = steps_of(record, write(tmp_path, record))
    assert (step.job, step.made.kind) == ("merge", "merge")
    assert set(step.made.files) == {"merge.json", "record.json", "samples.jsonl.gz"}


def test_a_model_twice_among_pivot_and_sources_is_one_artifact(tmp_path):
    twice = PoolRef(
        pool="zoo",
        pivot=model("base"),
        sources=(
            model("base"),
            model("code"),
        ),
        references=(),
    )
    record = make_record(models=twice)
    merge = steps_of(record, write(tmp_path, record))[0]
    assert names(merge.used) == ["model-hash-of-base", "model-hash-of-code"]


def test_no_weights_go_along_only_their_checksum(tmp_path):
    record = make_record()
    artifact = steps_of(record, write(tmp_path, record))[0].used[1]
    assert artifact.files == {"weights.hash": b"hash-of-code"}
    assert artifact.metadata == to_json(model("code"))


def test_a_merge_holds_its_report_and_settings(tmp_path):
    record = make_record()
    merge = steps_of(record, write(tmp_path, record))[0].made
    held = json.loads(merge.files["merge.json"])
    assert (held["report"], held["settings"]) == ({"n_merged": 7}, {"density": 0.1})
    assert (held["method"], held["seed"], merge.metadata["dtype"]) == ("ties", 3, "bfloat16")


def test_a_score_holds_the_record_byte_for_byte_and_the_samples(tmp_path):
    record = make_record()
    path = write(tmp_path, record)
    made = steps_of(record, path)[1].made
    assert made.files == {
        "record.json": path.read_bytes(),
        "samples.jsonl.gz": path.with_name("samples.jsonl.gz"),
    }
    assert made.metadata["scores"] == {"code": 0.5, "french": 0.25}


def test_paths_of_the_machine_are_cut_from_what_is_held(tmp_path):
    private = replace(make_record().models, pivot=model("base", "/home/alice"))
    record = make_record(models=private, merge={"warnings": ["no /home/alice/x"]})
    merge, evaluation = steps_of(record, write(tmp_path, record))
    held = [*merge.made.files.values(), evaluation.made.files["record.json"]]
    assert b"alice" not in b"".join(held)
    assert merge.used[0].metadata["location"] == "base"


def test_a_record_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        steps_of(make_record(), tmp_path / "gone.json")
