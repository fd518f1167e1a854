import math

import pytest

from eval.records import Sample
from eval.statistics.scores import byte_likelihood, byte_likelihood_score, raw_score


def sample(value, **rolling):
    return Sample(doc_id=0, doc_hash="", value=value, **rolling)


def test_a_mean_has_the_standard_error_of_its_documents():
    # 1, 0, 0, 1: mean 1/2, variance 4 * 1/4 / 3 = 1/3, over 4 documents
    score = raw_score([sample(v) for v in (1.0, 0.0, 0.0, 1.0)], metric="acc")
    assert (score.value, score.raw, score.n) == (0.5, 0.5, 4)
    assert score.stderr == pytest.approx(math.sqrt(1 / 3 / 4))


def test_byte_likelihood_is_the_geometric_mean_probability_of_a_byte():
    # 8 bytes at probability 1/4 each: 2 bits per byte
    assert byte_likelihood(8 * math.log(1 / 4), 8) == pytest.approx(0.25)


def test_bits_per_byte_weighs_documents_by_their_bytes():
    # 4 bits on 2 bytes and 6 bits on 6: 10 / 8, not the mean of 2 and 1
    documents = [(-4 * math.log(2), 2), (-6 * math.log(2), 6)]
    score = byte_likelihood_score(
        [sample(0.5, loglikelihood=log, n_bytes=n) for log, n in documents]
    )
    assert score.raw == pytest.approx(1.25)
    assert score.value == pytest.approx(2**-1.25)
    assert not score.higher_is_better
    # residuals 4 - 1.25 * 2 and 6 - 1.25 * 6: 1.5 and -1.5; sqrt(2 * 4.5) / 8 = 0.375 bits
    assert score.stderr == pytest.approx(math.log(2) * 2**-1.25 * 0.375)


def test_the_ratio_error_agrees_with_resampling_the_documents():
    documents = [(-(3 + i % 5) * 0.7, 4 + (i * 7) % 3) for i in range(60)]
    score = byte_likelihood_score(
        [sample(0.5, loglikelihood=log, n_bytes=n) for log, n in documents]
    )
    total_log, total = (sum(column) for column in zip(*documents, strict=True))
    left_out = [math.exp((total_log - log) / (total - n)) for log, n in documents]  # jackknife
    mean = sum(left_out) / 60
    jackknife = math.sqrt(59 / 60 * sum((v - mean) ** 2 for v in left_out))
    assert score.stderr == pytest.approx(jackknife, rel=0.02)


def test_one_document_has_no_error_and_is_refused():
    with pytest.raises(ValueError, match="acc needs at least 2 documents for an error, got 1"):
        raw_score([sample(1.0)], metric="acc")


def test_a_document_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="acc must be finite for every document"):
        raw_score([sample(1.0), sample(math.nan)], metric="acc")
