"""W&B config, summary and table of scores of a record."""

from eval.schema import to_json
from eval.tracking.content import record_content
from tests.offline_runs import COST, make_record, make_reference, model, write


def content(tmp_path, record):
    return record_content(record, write(tmp_path, record))


def test_config_has_kind_method_settings_and_models(tmp_path):
    config = content(tmp_path, make_record()).config
    assert (config["kind"], config["method"], config["settings"], config["seed"]) == (
        "merge", "ties", {"density": 0.1}, 3,
    )  # fmt: skip
    assert config["models"]["pivot"] == to_json(model("base"))


def test_summary_has_scores_mean_seconds_and_memory(tmp_path):
    summary = content(tmp_path, make_record(evaluation_cost=COST)).summary
    assert (summary["score/code"], summary["score/mean"]) == (0.5, 0.375)
    for stage in ("merge", "evaluation"):
        assert summary[f"{stage}/seconds"] == 0.25
        assert summary[f"{stage}/peak_rss_bytes"] == 900


def test_reference_has_no_merge_cost(tmp_path):
    reference = content(tmp_path, make_reference())
    assert reference.job_type == "reference"
    assert not [key for key in reference.summary if key.startswith("merge/")]


def test_score_table_is_in_suite_order(tmp_path):
    table = content(tmp_path, make_record()).tables["scores"]
    assert table.columns[:3] == ("task", "domain", "score")
    assert table.rows == (
        ("code", "code", 0.5, 0.1, 2, "acc", 0.5),
        ("french", "french", 0.25, 0.1, 2, "acc", 0.25),
    )


def test_a_merge_without_evaluation_has_no_table(tmp_path):
    merge = content(tmp_path, make_record(suite=None, scores={}, domains={}))
    assert merge.tables == {}
    assert merge.tags == ("ties", "zoo", "none", "done")


def test_artifact_is_the_record_file(tmp_path):
    merge = content(tmp_path, make_record())
    assert [path.relative_to(merge.folder).as_posix() for path in merge.files] == [
        "record.json"
    ]
