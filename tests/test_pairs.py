"""Errors of paired differences: the draws' own, those of compare, and packed for the page."""

import base64
import math
from dataclasses import replace

import numpy as np
import pytest

from eval.leaderboard import pairs as module
from eval.leaderboard.board import boards_of
from eval.leaderboard.pairs import pairs_of
from eval.sample_file import Sample
from eval.statistics.compare import compare
from eval.statistics.pairs import paired_errors
from eval.statistics.resampling import bootstrap
from eval.statistics.scores import raw_score
from tests.made_up_runs import make_record, panel, run_with

DRAWS = {"n_resamples": 500, "seed": 3}
RIGHT = {"ties": [1, 1, 0, 1, 0, 1], "sce": [1, 0, 0, 1, 1, 1], "dare": [0, 1, 1, 1, 0, 0]}
"""Right answers of three merges on six documents of one task."""


def scored(name, right):
    samples = [Sample(doc_id=i, doc_hash=f"d{i}", value=float(v)) for i, v in enumerate(right)]
    record = make_record(name, {"a": raw_score(samples, metric="acc")}, fingerprint=name)
    return run_with(record, {"a": samples})


def board():
    (made,) = boards_of([scored(name, right) for name, right in RIGHT.items()])
    return made


def unpacked(pairs):
    """Half-widths by column, then by pair, in fractions."""
    levels = np.frombuffer(base64.b64decode(pairs.half_widths), np.uint8).astype(float)
    half_widths = np.where(levels, pairs.smallest * pairs.ratio ** (levels - 1), 0)
    return half_widths.reshape(1 + len(pairs.columns), -1)


def test_error_of_a_difference_is_the_spread_of_the_differences_over_the_draws():
    runs = panel([[1, 0, 1, 1], [0, 0, 1, 1]], [[0.5, 1, 0, 0], [0.5, 0, 1, 0.25]])
    drawn = bootstrap(runs, **DRAWS).values
    errors = paired_errors(runs, **DRAWS)
    for column, name in enumerate(("t0", "t1")):
        spread = np.std(drawn[:, 0, column] - drawn[:, 1, column], ddof=1)
        assert errors.columns[name][0, 1] == pytest.approx(spread, rel=1e-9)
        assert errors.columns[name][1, 0] == errors.columns[name][0, 1]
        assert errors.columns[name][0, 0] == 0


def test_error_of_the_mean_is_that_of_compare():
    runs = panel([[1, 0, 1, 1], [0, 0, 1, 1]], [[0.5, 1, 0, 0], [0.5, 0, 1, 0.25]])
    (pair,) = compare(runs, [("ties", "sce")], **DRAWS)
    expected = pytest.approx(pair.difference.stderr, rel=1e-9)
    assert paired_errors(runs, **DRAWS).mean[0, 1] == expected


def test_equal_runs_differ_by_nothing_for_certain():
    runs = panel([[1, 0, 1], [1, 0, 1]])
    assert paired_errors(runs, **DRAWS).mean.tolist() == [[0, 0], [0, 0]]


def test_a_group_is_one_column_weighted_by_its_shares():
    runs = replace(
        panel([[1, 0, 1, 1], [0, 0, 1, 1]], [[0.5, 1, 0, 0], [0.5, 0, 1, 0.25]]),
        groups={"both": {"t0": 0.25, "t1": 0.75}}, domains={"t0": "x", "t1": "x"},
    )  # fmt: skip
    drawn = bootstrap(runs, **DRAWS).values @ np.array([0.25, 0.75])
    errors = paired_errors(runs, **DRAWS)
    assert list(errors.columns) == ["both"]
    expected = pytest.approx(np.std(drawn[:, 0] - drawn[:, 1], ddof=1), rel=1e-9)
    assert errors.columns["both"][0, 1] == expected
    assert errors.mean[0, 1] == expected  # the only column


def test_page_has_the_half_width_of_every_pair_within_half_a_level():
    pairs = pairs_of(board())
    assert pairs.columns == ("a",)
    assert sorted(pairs.rows) == ["dare", "sce", "ties"]
    runs = panel([RIGHT[name] for name in pairs.rows], runs=pairs.rows)
    runs = replace(runs, tasks={"a": runs.tasks["t0"]}, domains={"a": "a"})
    errors = paired_errors(runs, n_resamples=module.PAIR_RESAMPLES, seed=0)
    below = [(1, 0), (2, 0), (2, 1)]
    for column, matrix in enumerate((errors.mean, errors.columns["a"])):
        expected = [1.959964 * matrix[i, j] for i, j in below]
        within = pairs.ratio**0.51 - 1
        assert unpacked(pairs)[column] == pytest.approx(expected, rel=within)


def test_levels_are_closer_than_the_noise_of_the_draws():
    (made,) = boards_of([scored(f"r{i}", [i >> k & 1 for k in range(6)]) for i in range(64)])
    pairs = pairs_of(made)
    assert (pairs.ratio - 1) / 2 < 1 / math.sqrt(2 * module.PAIR_RESAMPLES)
    levels = np.frombuffer(base64.b64decode(pairs.half_widths), np.uint8)
    assert {0, 1, 255} < set(levels.tolist())  # all right and all wrong: always 1 apart


def test_equal_rows_have_no_half_width():
    (made,) = boards_of([scored(name, [1, 0, 1]) for name in ("ties", "sce")])
    assert unpacked(pairs_of(made)).tolist() == [[0], [0]]


def test_of_more_rows_than_a_page_holds_the_first_are_compared(monkeypatch):
    every = pairs_of(board())
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2)
    pairs = pairs_of(board())
    assert pairs.rows == every.rows[:2]
    assert unpacked(pairs)[0] == pytest.approx(unpacked(every)[0][:1], rel=every.ratio - 1)


def test_runs_without_samples_are_not_compared():
    runs = [replace(scored(name, right), samples=None) for name, right in RIGHT.items()]
    (bare,) = boards_of(runs)
    assert pairs_of(bare) is None
