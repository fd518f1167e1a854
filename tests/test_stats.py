import pytest

from eval.results import Sample, Score
from eval.stats import mean_score, paired_difference


def score(value, stderr, n=10):
    return Score(
        value=value, stderr=stderr, n=n, raw=value, raw_metric="acc", higher_is_better=True
    )


def samples(**values):
    return [Sample(doc_id=i, doc_hash=h, value=v) for i, (h, v) in enumerate(values.items())]


def test_the_mean_counts_every_task_once_whatever_its_size():
    # (0.2 + 0.6) / 2; sqrt(0.03^2 + 0.04^2) / 2 = 0.05 / 2
    mean = mean_score([score(0.2, 0.03, n=10), score(0.6, 0.04, n=1000)])
    assert mean.value == pytest.approx(0.4)
    assert mean.stderr == pytest.approx(0.025)


def test_no_task_has_no_mean():
    with pytest.raises(ValueError, match="at least one task, got none"):
        mean_score([])


def test_a_paired_difference_matches_documents_by_content_not_by_place():
    # differences a: 1 - 0, b: 0.5 - 0.5, c: 1 - 0.5; mean 0.5, sd 0.5
    difference = paired_difference(samples(a=1, b=0.5, c=1), samples(c=0.5, a=0, b=0.5))
    assert difference.value == pytest.approx(0.5)
    assert difference.stderr == pytest.approx(0.5 / 3**0.5)


def test_runs_that_are_equally_wrong_everywhere_differ_by_exactly_nothing():
    same = paired_difference(samples(a=0.3, b=0.7), samples(b=0.7, a=0.3))
    assert (same.value, same.stderr) == (0.0, 0.0)


def test_runs_on_other_documents_are_refused():
    with pytest.raises(ValueError, match="1 are only in the first and 2 only in the second"):
        paired_difference(samples(a=1, b=1), samples(a=1, c=1, d=1))


def test_one_document_has_no_error():
    with pytest.raises(ValueError, match="at least 2 documents, got 1"):
        paired_difference(samples(a=1), samples(a=0))
