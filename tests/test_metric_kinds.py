"""Scores of metrics by their aggregation, and the page that lists them."""

import pytest

from eval.metric_kinds import METRIC_KINDS, default_score


@pytest.mark.parametrize(
    ("metric", "aggregation", "higher", "score"),
    [
        ("acc_norm", "mean", True, "raw"),
        ("bleu_acc", "mean", True, "raw"),
        ("bleu_max", "mean", True, "reported"),
        ("rouge1_diff", "mean", True, "reported"),
        ("wer", "mean", False, "reported"),
        ("unknown", "mean", None, "reported"),
        ("bits_per_byte", "bits_per_byte", False, "byte_likelihood"),
        ("word_perplexity", "weighted_perplexity", False, "inverse_perplexity"),
        ("inst_level_strict_acc", "agg_inst_level_acc", True, "parts"),
        ("acc_norm", "agg_gpirt_arc", True, "reported"),
        ("mcc", "matthews_corrcoef", True, "reported"),
    ],
)
def test_the_score_follows_from_aggregation_and_direction(metric, aggregation, higher, score):
    assert default_score(metric, aggregation=aggregation, higher_is_better=higher) == score


def test_the_page_of_the_package_lists_every_score(repository):
    page = (repository / "eval/README.md").read_text()
    for score, kind in METRIC_KINDS.items():
        assert any(
            line.startswith(f"| `{score}` ") and line.endswith(f"| {kind.in_mean} |")
            for line in page.splitlines()
        ), score
