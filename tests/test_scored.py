"""Scores of lm-eval kept in a file until they are in a record."""

import gzip
import json
import math

import numpy as np
import pytest

from eval.scored import (
    SCORED_NAME,
    read_scored,
    scored_from,
    write_scored,
)


def logged(**metrics):
    sample = {"doc_id": 0, "doc_hash": "a1", "filter": "none", "doc": {"text": "long"}}
    return sample | {"metrics": list(metrics)} | metrics


def scored(**metrics):
    results = {
        "results": {"t": {"acc,none": np.float64(0.5), "alias": "t"}},
        "samples": {"t": [logged(**metrics)]},
        "versions": {"t": 1.0},
        "configs": {},
    }
    return scored_from(results, caps={"t": 7}, max_length=512)


def test_only_what_scores_are_made_of_is_kept():
    assert scored(acc=1.0).samples["t"] == [
        {"doc_id": 0, "doc_hash": "a1", "filter": "none", "metrics": ["acc"], "acc": 1.0}
    ]


def test_values_come_back_with_their_types(tmp_path):
    given = scored(
        acc=np.float32(0.1), perplexity=(-1.5, 3), bleu=("a reference", ["an answer"]),
        parts=[True, False], none=None, more={"tuple": (1, 2), "3": "x"},
    )  # fmt: skip
    write_scored(tmp_path / SCORED_NAME, given)
    read = read_scored(tmp_path / SCORED_NAME)
    assert read == given
    (sample,) = read.samples["t"]
    assert isinstance(sample["perplexity"], tuple)
    assert isinstance(sample["bleu"][1], list)
    assert sample["more"] == {"tuple": (1, 2), "3": "x"}


def test_numbers_that_json_lacks_come_back(tmp_path):
    write_scored(tmp_path / SCORED_NAME, scored(acc=math.nan, other=-math.inf))
    (sample,) = read_scored(tmp_path / SCORED_NAME).samples["t"]
    assert math.isnan(sample["acc"])
    assert sample["other"] == -math.inf


def test_a_value_of_another_type_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="set"):
        write_scored(tmp_path / SCORED_NAME, scored(acc={1, 2}))
    assert list(tmp_path.iterdir()) == []


DAMAGED = {
    "no gzip": b"no gzip",
    "no entries": gzip.compress(b"{}"),
    "a list": gzip.compress(b"[]"),
    "cut short": gzip.compress(b"{")[:12],
    "nested deep": gzip.compress(b"[" * 100_000),
    "pairs as an object": gzip.compress(json.dumps({"results": {"object": [[1]]}}).encode()),
    "no samples": gzip.compress(json.dumps({"results": {"x": 1}}).encode()),
    "a number": gzip.compress(json.dumps({"results": {"object": 5}, "samples": []}).encode()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named(damage, tmp_path):
    (tmp_path / SCORED_NAME).write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"scored\.json\.gz holds no scores \("):
        read_scored(tmp_path / SCORED_NAME)
