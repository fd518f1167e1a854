import math
import random

import pytest

from eval.records import Score
from eval.statistics.scores import (
    domain_means,
    holm,
    mean_score,
    overall_mean,
    task_weights,
)

DOMAINS = {"code_a": "code", "french": "french", "code_b": "code"}


def score(value, stderr, n=10):
    return Score(
        value=value, stderr=stderr, n=n, raw=value, raw_metric="acc", higher_is_better=True
    )


def test_the_mean_counts_every_task_once_whatever_its_size():
    # (0.2 + 0.6) / 2; sqrt(0.03^2 + 0.04^2) / 2 = 0.05 / 2
    mean = mean_score([score(0.2, 0.03, n=10), score(0.6, 0.04, n=1000)])
    assert mean.value == pytest.approx(0.4)
    assert mean.stderr == pytest.approx(0.025)


def test_no_task_has_no_mean():
    with pytest.raises(ValueError, match="at least one task, got none"):
        mean_score([])


def test_tasks_are_averaged_within_their_domain_first():
    # code (0.2 + 0.6) / 2 = 0.4 with error 0.05 / 2; french alone
    scores = {"code_a": score(0.2, 0.03), "code_b": score(0.6, 0.04), "french": score(0.8, 0.1)}
    means = domain_means(scores, DOMAINS)
    assert list(means) == ["code", "french"]
    assert means["code"].value == pytest.approx(0.4)
    assert means["code"].stderr == pytest.approx(0.025)
    assert means["french"] == mean_score([scores["french"]])


def test_a_domain_counts_once_however_many_tasks_it_has():
    # (0.4 + 0.8) / 2, where the mean over tasks would be 1.6 / 3
    scores = {"code_a": score(0.2, 0.04), "code_b": score(0.6, 0), "french": score(0.8, 0)}
    mean = overall_mean(scores, DOMAINS)
    assert mean.value == pytest.approx(0.6)
    assert mean.stderr == pytest.approx(0.04 / 4)


def test_the_error_of_the_overall_mean_is_that_of_the_mean_of_the_domain_means():
    scores = {"code_a": score(0.2, 0.03), "code_b": score(0.6, 0.04), "french": score(0.8, 0.1)}
    means = domain_means(scores, DOMAINS).values()
    expected = sum(mean.stderr**2 for mean in means) ** 0.5 / 2
    assert overall_mean(scores, DOMAINS).stderr == pytest.approx(expected)


def test_the_weights_of_the_tasks_add_up_to_one():
    assert task_weights(DOMAINS) == {"code_a": 0.25, "french": 0.5, "code_b": 0.25}


def test_a_mean_over_no_task_is_refused():
    with pytest.raises(ValueError, match="overall mean needs at least one task, got none"):
        overall_mean({}, {})


def test_a_task_without_a_score_is_named():
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
def test_holm_multiplies_the_smallest_by_the_number_of_tests(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_rejects_exactly_what_the_step_down_procedure_rejects():
    def rejected(p_values, level):
        order = sorted(range(len(p_values)), key=lambda i: p_values[i])
        for place, i in enumerate(order):
            if p_values[i] > level / (len(p_values) - place):
                return set(order[:place])
        return set(order)

    rng = random.Random(0)
    for _ in range(200):
        p_values = [rng.random() ** 3 for _ in range(6)]
        found = {i for i, p in enumerate(holm(p_values)) if p <= 0.05}
        assert found == rejected(p_values, 0.05)


@pytest.mark.parametrize("p_value", [-0.1, 1.5, math.nan])
def test_a_p_value_outside_the_unit_interval_is_refused(p_value):
    with pytest.raises(ValueError, match=rf"p-values must be in \[0, 1\], got \[{p_value}\]"):
        holm([0.5, p_value])
