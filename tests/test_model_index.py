"""Scores of records in the form of the Hub's model index."""

from huggingface_hub import ModelCardData

from eval.model_index import results_of
from eval.records import Score
from tests.made_up_runs import make_record


def test_each_metric_is_followed_by_its_standard_error():
    bits = Score(value=0.25, stderr=0.125, n=7, raw=2.0, raw_metric="bits_per_byte,none",
                 higher_is_better=False)  # fmt: skip
    acc = Score(value=0.5, stderr=0.1, n=9, raw=0.5, raw_metric="acc_norm,none",
                higher_is_better=True)  # fmt: skip
    results = results_of(make_record(values={"texts": bits, "arc": acc}))
    assert [(r.dataset_type, r.metric_type, r.metric_value) for r in results] == [
        ("texts", "bits_per_byte", 2.0),
        ("texts", "score", 0.25),
        ("texts", "score_stderr", 0.125),
        ("arc", "acc_norm", 0.5),
        ("arc", "acc_norm_stderr", 0.1),
    ]
    assert [r.metric_args["n_samples"] for r in results] == [7, 7, 7, 9, 9]
    index = ModelCardData(model_name="m", eval_results=results).to_dict()["model-index"]
    tasks = [one["dataset"] for one in index[0]["results"]]
    assert tasks == [
        {"name": "texts", "type": "texts", "split": "test"},
        {"name": "arc", "type": "arc", "split": "test"},
    ]


def test_merge_that_was_not_evaluated_has_no_results():
    assert results_of(make_record(values={})) == []
