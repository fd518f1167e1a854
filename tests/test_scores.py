import math
import random

import pytest

from eval.records import Score
from eval.sample_file import Sample
from eval.statistics.scores import (
    byte_likelihood,
    byte_likelihood_score,
    domain_means,
    holm,
    inverse_perplexity_score,
    mean_score,
    overall_mean,
    parts_score,
    raw_score,
    task_weights,
)

DOMAINS = {"code_a": "code", "french": "french", "code_b": "code"}


def score(value, stderr, n=10):
    return Score(
        value=value, stderr=stderr, n=n, raw=value, raw_metric="acc", higher_is_better=True
    )


def test_mean_score_weighs_tasks_equally():
    # (0.2 + 0.6) / 2; sqrt(0.03^2 + 0.04^2) / 2 = 0.05 / 2
    mean = mean_score([score(0.2, 0.03, n=10), score(0.6, 0.04, n=1000)])
    assert mean.value == pytest.approx(0.4)
    assert mean.stderr == pytest.approx(0.025)


def test_mean_of_no_tasks_is_refused():
    with pytest.raises(ValueError, match="at least one task, got none"):
        mean_score([])


def test_domain_means_average_their_tasks():
    # code (0.2 + 0.6) / 2 = 0.4 with error 0.05 / 2; french alone
    scores = {"code_a": score(0.2, 0.03), "code_b": score(0.6, 0.04), "french": score(0.8, 0.1)}
    means = domain_means(scores, DOMAINS)
    assert list(means) == ["code", "french"]
    assert means["code"].value == pytest.approx(0.4)
    assert means["code"].stderr == pytest.approx(0.025)
    assert means["french"] == mean_score([scores["french"]])


def test_overall_mean_weighs_domains_equally():
    # (0.4 + 0.8) / 2, where the mean over tasks would be 1.6 / 3
    scores = {"code_a": score(0.2, 0.04), "code_b": score(0.6, 0), "french": score(0.8, 0)}
    mean = overall_mean(scores, DOMAINS)
    assert mean.value == pytest.approx(0.6)
    assert mean.stderr == pytest.approx(0.04 / 4)


def test_task_weights_sum_to_one():
    assert task_weights(DOMAINS) == {"code_a": 0.25, "french": 0.5, "code_b": 0.25}


def test_overall_mean_of_no_tasks_is_refused():
    with pytest.raises(ValueError, match="overall mean needs at least one task, got none"):
        overall_mean({}, {})


def test_missing_task_score_is_refused():
    with pytest.raises(ValueError, match=r"score of every task, got none of \['code_b'\]"):
        domain_means({"code_a": score(0.2, 0), "french": score(0.2, 0)}, DOMAINS)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # R: p.adjust(p, "holm")
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, 0.9, 0.001], [1.0, 1.0, 0.003]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_equals_r_p_adjust(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_equals_the_step_down_procedure():
    def rejected(p_values, level):
        order = sorted(range(len(p_values)), key=lambda i: p_values[i])
        for place, i in enumerate(order):
            if p_values[i] > level / (len(p_values) - place):
                return set(order[:place])
        return set(order)

    rng = random.Random(0)
    for _ in range(200):
        p_values = [rng.random() ** 3 for _ in range(6)]
        significant = {i for i, p in enumerate(holm(p_values)) if p <= 0.05}
        assert significant == rejected(p_values, 0.05)


@pytest.mark.parametrize("p_value", [-0.1, 1.5, math.nan])
def test_a_p_value_outside_the_unit_interval_is_refused(p_value):
    with pytest.raises(ValueError, match=rf"p-values must be in \[0, 1\], got \[{p_value}\]"):
        holm([0.5, p_value])


def sample(value, **rolling):
    return Sample(doc_id=0, doc_hash="", value=value, **rolling)


def test_raw_score_has_the_standard_error_of_the_mean():
    # 1, 0, 0, 1: mean 1/2, variance 4 * 1/4 / 3 = 1/3, over 4 documents
    score = raw_score([sample(v) for v in (1.0, 0.0, 0.0, 1.0)], metric="acc")
    assert (score.value, score.raw, score.n) == (0.5, 0.5, 4)
    assert score.stderr == pytest.approx(math.sqrt(1 / 3 / 4))


def test_byte_likelihood_is_the_geometric_mean_probability_of_a_byte():
    # 8 bytes at probability 1/4 each: 2 bits per byte
    assert byte_likelihood(8 * math.log(1 / 4), 8) == pytest.approx(0.25)


def test_bits_per_byte_is_weighted_by_bytes():
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


def test_ratio_error_agrees_with_the_jackknife():
    documents = [(-(3 + i % 5) * 0.7, 4 + (i * 7) % 3) for i in range(60)]
    score = byte_likelihood_score(
        [sample(0.5, loglikelihood=log, n_bytes=n) for log, n in documents]
    )
    total_log, total = (sum(column) for column in zip(*documents, strict=True))
    left_out = [math.exp((total_log - log) / (total - n)) for log, n in documents]  # jackknife
    mean = sum(left_out) / 60
    jackknife = math.sqrt(59 / 60 * sum((v - mean) ** 2 for v in left_out))
    assert score.stderr == pytest.approx(jackknife, rel=0.02)


def test_single_document_is_refused():
    with pytest.raises(ValueError, match="acc needs at least 2 documents for an error, got 1"):
        raw_score([sample(1.0)], metric="acc")


def test_nan_sample_is_refused():
    with pytest.raises(ValueError, match="acc must be finite for every document"):
        raw_score([sample(1.0), sample(math.nan)], metric="acc")


GROUPS = {"exams": {"easy": 0.25, "hard": 0.75}}
GROUPED = {"easy": "knowledge", "hard": "knowledge", "quiz": "knowledge", "french": "french"}


def test_a_group_counts_like_one_task_of_its_domain():
    assert task_weights(GROUPED, GROUPS) == {
        "easy": 0.25 / 4, "hard": 0.75 / 4, "quiz": 1 / 4, "french": 1 / 2
    }  # fmt: skip
    scores = {
        "easy": score(0.4, 0.04), "hard": score(0.8, 0), "quiz": score(0.1, 0),
        "french": score(0.6, 0),
    }  # fmt: skip
    # exams 0.25 * 0.4 + 0.75 * 0.8 = 0.7, error 0.25 * 0.04; knowledge (0.7 + 0.1) / 2
    means = domain_means(scores, GROUPED, GROUPS)
    assert means["knowledge"].value == pytest.approx(0.4)
    assert means["knowledge"].stderr == pytest.approx(0.005)
    mean = overall_mean(scores, GROUPED, GROUPS)
    assert mean.value == pytest.approx(0.5)
    assert mean.stderr == pytest.approx(0.0025)


def test_inverse_perplexity_is_the_geometric_mean_probability_of_a_unit():
    # perplexity exp((2 + 4) / (1 + 2)) = exp(2); without units a document is one: exp(3)
    words = [
        Sample(doc_id=i, doc_hash=str(i), value=0, loglikelihood=-2.0 * n, n_units=n)
        for i, n in enumerate((1, 2))
    ]
    score = inverse_perplexity_score(words, metric="word_perplexity")
    assert score.raw == pytest.approx(math.exp(2))
    assert (score.value, score.stderr) == pytest.approx((math.exp(-2), 0.0))
    answers = [
        Sample(doc_id=i, doc_hash=str(i), value=0, loglikelihood=-2.0 * i) for i in (1, 2)
    ]
    score = inverse_perplexity_score(answers, metric="perplexity")
    # the error of the mean log-likelihood is sqrt(2) / sqrt(2) = 1, carried by exp(-3)
    assert (score.value, score.stderr) == pytest.approx((math.exp(-3), math.exp(-3)))


def test_parts_count_alike_whatever_document_they_are_in():
    # (1 + 1) / (1 + 3) = 0.5; residuals 0.5 and -0.5: sqrt(2 / 1 * 0.5) / 4 = 0.25
    samples = [
        Sample(doc_id=0, doc_hash="a", value=1.0, n_units=1),
        Sample(doc_id=1, doc_hash="b", value=1 / 3, n_units=3),
    ]
    score = parts_score(samples, metric="inst_level_strict_acc")
    assert (score.value, score.stderr, score.raw) == pytest.approx((0.5, 0.25, 0.5))
