import math
from dataclasses import replace

import numpy as np
import pytest

from eval.sample_file import Sample
from eval.statistics.compare import overall
from eval.statistics.samples import Run, ScoreTable, match
from eval.statistics.scores import (
    byte_likelihood,
    byte_likelihood_score,
    inverse_perplexity_score,
    parts_score,
    raw_score,
)
from tests.made_up_runs import make_record, run_with

DOMAINS = {"order": "code", "bits": "french"}


def run(order, bits):
    scores = {"order": raw_score(order, metric="acc"), "bits": byte_likelihood_score(bits)}
    record = make_record("ties", scores, domains=DOMAINS, evaluation_cost=None)
    return run_with(record, {"order": order, "bits": bits})


def counted(**values):
    return [Sample(doc_id=i, doc_hash=h, value=v) for i, (h, v) in enumerate(values.items())]


def rolling(documents):
    """Samples of (hash, natural log-likelihood, bytes)."""
    return [
        Sample(
            doc_id=i, doc_hash=h, value=byte_likelihood(log, n), loglikelihood=log, n_bytes=n
        )
        for i, (h, log, n) in enumerate(documents)
    ]


BITS = rolling([("x", -2.0, 4), ("y", -9.0, 8)])
RUN = run(counted(a=1, b=0, c=1), BITS)


def test_runs_are_matched_by_document_hash():
    other = run(counted(c=0.25, a=1, b=0.5), list(reversed(BITS)))
    task = match({"ties": RUN, "sce": other}).tasks["order"]
    assert task.totals.tolist() == [[1, 0, 1], [1, 0.5, 0.25]]
    assert task.sizes.tolist() == [1, 1, 1]


def test_observed_scores_equal_the_record():
    table = match({"ties": RUN, "sce": RUN}).observed()
    scores = RUN.record.scores
    for label in ("ties", "sce"):
        assert table.task(label, "order") == pytest.approx(2 / 3)
        assert table.task(label, "bits") == pytest.approx(scores["bits"].value, rel=1e-12)
    assert table.task("ties", "bits") == pytest.approx(math.exp(-11 / 12))


def test_tasks_are_in_the_order_of_the_scores():
    assert list(match({"ties": RUN}).tasks) == ["order", "bits"]


def test_duplicate_documents_are_combined():
    copies = [Sample(doc_id=i, doc_hash=h, value=v) for i, h, v in [(0, "a", 1), (1, "b", 0)]]
    copies.append(Sample(doc_id=2, doc_hash="a", value=0.5))
    panel = match({"ties": run(copies, rolling([("x", -2, 4), ("x", -4, 4), ("y", -3, 6)]))})
    assert panel.tasks["order"].totals.tolist() == [[1.5, 0]]
    assert panel.tasks["order"].sizes.tolist() == [2, 1]
    assert panel.tasks["bits"].sizes.tolist() == [8, 6]
    assert panel.observed().task("ties", "order") == 0.5


def test_different_documents_are_refused_with_counts():
    other = run(counted(a=1, d=0, e=1), BITS)
    with pytest.raises(ValueError, match=r"order: .* 2 are only in ties and 2 only in sce"):
        match({"ties": RUN, "sce": other})


def test_different_document_multiplicity_is_refused():
    twice = [*counted(a=1, b=0), Sample(doc_id=2, doc_hash="a", value=1)]
    thrice = [*counted(b=0, a=1), Sample(doc_id=2, doc_hash="b", value=0)]
    with pytest.raises(ValueError, match="1 are only in ties and 1 only in sce"):
        match({"ties": run(twice, BITS), "sce": run(thrice, BITS)})


def test_a_single_distinct_document_is_refused():
    same = [Sample(doc_id=i, doc_hash="a", value=1) for i in range(2)]
    with pytest.raises(ValueError, match="order needs at least 2 different documents, got 1"):
        match({"ties": run(same, BITS)})


def test_different_byte_counts_are_refused():
    other = run(counted(a=1, b=0, c=1), rolling([("x", -2.0, 5), ("y", -9.0, 8)]))
    with pytest.raises(ValueError, match="bits: sce and ties count other bytes"):
        match({"ties": RUN, "sce": other})


def test_samples_contradicting_the_score_are_refused():
    right = run(counted(a=1, b=1, c=1), BITS)
    with pytest.raises(ValueError, match=r"order: .* the recorded score 1\.0"):
        run_with(right.record, {"order": counted(a=1, b=0, c=1), "bits": BITS})


def test_differently_evaluated_runs_are_refused():
    suite = replace(RUN.record.suite, fingerprint="other")
    other = Run(record=replace(RUN.record, suite=suite), samples=RUN.samples)
    with pytest.raises(ValueError, match=r"suite\.fingerprint is 'test' and 'other'"):
        match({"ties": RUN, "sce": other})


def test_run_lacking_a_task_is_refused():
    lacking = Run(record=RUN.record, samples={"order": RUN.samples["order"]})
    with pytest.raises(ValueError, match=r"sce has no score or no samples .* \['bits'\]"):
        match({"ties": RUN, "sce": lacking})


@pytest.mark.parametrize(
    ("missing", "named"), [("loglikelihood", "no loglikelihood"), ("n_bytes", "no bytes")]
)
def test_rolling_sample_without_loglikelihood_or_bytes_is_refused(missing, named):
    values = {"value": 0.5, "loglikelihood": -1.0, "n_bytes": 4, missing: None}
    bad = [Sample(doc_id=i, doc_hash=h, **values) for i, h in enumerate("xy")]
    with pytest.raises(ValueError, match=rf"document x of a rolling task has {named}"):
        run_with(RUN.record, {"order": counted(a=1, b=0, c=1), "bits": bad})


def test_matching_no_runs_is_refused():
    with pytest.raises(ValueError, match="at least one run, got none"):
        match({})


TABLE = ScoreTable(
    values=np.array([[0.25, 0.75, 0.5], [0.0, 1.0, 0.0]]),
    runs=("ties", "sce"),
    domains={"a": "code", "b": "code", "c": "french"},
)


def test_score_table_is_indexed_by_run_task_and_domain():
    assert TABLE.task("ties", "b") == 0.75
    assert TABLE.domain("ties", "code") == 0.5
    assert TABLE.domain("sce", "french") == 0.0
    assert TABLE.tasks_of("code") == ("a", "b")


def test_unknown_run_or_domain_lists_the_existing_ones():
    with pytest.raises(ValueError, match=r"runs are \['sce', 'ties'\], got 'dare'"):
        TABLE.run("dare")
    with pytest.raises(ValueError, match=r"domains are \['code', 'french'\], got 'german'"):
        TABLE.domain("ties", "german")


def test_a_domain_s_score_counts_a_group_once():
    table = ScoreTable(
        values=np.array([[0.4, 0.8, 0.1]]),
        runs=("ties",),
        domains=dict.fromkeys(("easy", "hard", "quiz"), "knowledge"),
        groups={"exams": {"easy": 0.25, "hard": 0.75}},
    )
    assert table.domain("ties", "knowledge") == pytest.approx((0.7 + 0.1) / 2)
    assert overall(table)["ties"] == pytest.approx((0.7 + 0.1) / 2)


def test_ratios_over_words_and_parts_are_matched_with_their_sizes():
    words = [
        Sample(doc_id=i, doc_hash=h, value=0, loglikelihood=-2.0 * n, n_units=n)
        for i, (h, n) in enumerate({"x": 1, "y": 3}.items())
    ]
    parts = [
        Sample(doc_id=0, doc_hash="x", value=1.0, n_units=1),
        Sample(doc_id=1, doc_hash="y", value=1 / 3, n_units=3),
    ]
    scores = {
        "words": inverse_perplexity_score(words, metric="word_perplexity"),
        "parts": parts_score(parts, metric="inst_level_strict_acc"),
    }
    panel = match(
        {"ties": run_with(make_record("ties", scores), {"words": words, "parts": parts})}
    )
    assert panel.tasks["words"].sizes.tolist() == panel.tasks["parts"].sizes.tolist() == [1, 3]
    assert panel.tasks["parts"].totals.tolist() == [[1, 1]]
    assert panel.observed().values.tolist() == [pytest.approx([math.exp(-2), 0.5])]


def test_a_sample_without_units_beside_others_with_them_is_refused():
    parts = [
        Sample(doc_id=i, doc_hash="xy"[i], value=1.0, n_units=n) for i, n in enumerate((1, 2))
    ]
    record = make_record("ties", {"parts": parts_score(parts, metric="m")})
    with pytest.raises(ValueError, match=r"document y .* no n_units"):
        run_with(record, {"parts": [parts[0], replace(parts[1], n_units=None)]})
