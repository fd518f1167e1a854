"""Metrics of a merge from a table of scores, each defined once.

s(run, task) is a score in [0, 1], s(run, domain) its mean over the domain's tasks. All
metrics average within a domain first, then across domains. Each takes a table of any leading
shape and returns that shape: the same function serves the scores and their resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from eval.statistics.samples import Array, ScoreTable, mean_of
from eval.statistics.scores import Estimate

Metric = Callable[[ScoreTable, str], Array]
"""A table and the label of a run to the metric, shape (...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Base, experts and multitask upper bound that a merge is measured against."""

    base: str
    """The pivot, unmerged."""
    experts: Mapping[str, str]
    """Expert to the domain it was tuned for."""
    ceiling: str | None
    """Multitask model, trained on all the experts' tasks: the upper bound; None without one."""
    held_out: tuple[str, ...]
    """Domains that no expert was tuned for."""

    def __post_init__(self) -> None:
        domains = list(self.experts.values())
        if not domains or len(set(domains)) < len(domains):
            raise ValueError(f"every expert must have a domain of its own, got {self.experts}")
        if shared := sorted(set(domains) & set(self.held_out)):
            raise ValueError(f"domains {shared} cannot be both an expert's and held out")


def raw(table: ScoreTable, run: str) -> Array:
    """Mean score: mean over all domains of s(run, domain)."""
    return mean_of([table.domain(run, d) for d in dict.fromkeys(table.domains.values())])


def normalised(table: ScoreTable, run: str, roles: Roles) -> Array:
    """Score relative to the expert of the task: s(run, task) / s(expert, task).

    Mean over the tasks of an expert's own domain, then over the experts' domains; 1 equals
    every expert on its own domain. A ratio of scores, as in published tables of multi-task
    merging, not a share of a gap; the order of averaging is this project's.

    Raises:
        ValueError: If an expert scores 0 on a task of its own, in the scores or in a resample.
    """
    return mean_of(
        [_relative(table, run, expert, domain) for expert, domain in roles.experts.items()]
    )


def ceiling_share(table: ScoreTable, run: str, roles: Roles) -> Array:
    """Share of the ceiling: gain on the base, over that of the multitask upper bound.

    Sum over experts' domains of s(run, domain) - s(base, domain), divided by that sum for the
    ceiling. 0 is the base, 1 the ceiling.

    Raises:
        ValueError: If the roles have no ceiling, or it is no better than the base, in the
            scores or in a resample.
    """
    if roles.ceiling is None:
        raise ValueError("the share of the multitask ceiling needs a ceiling in the roles")
    ceiling = dict.fromkeys(roles.experts.values(), roles.ceiling)
    return _share_of_gap(table, run, roles, ceiling)


def gap_closed(table: ScoreTable, run: str, roles: Roles) -> Array:
    """Share of the gap between base and experts that the merge closes.

    Sum over experts' domains of s(run, domain) - s(base, domain), divided by that sum for the
    experts, each on its own domain: a ratio of sums, so that a domain with hardly any gap does
    not dominate. 0 is the base, 1 every expert at once; negative is worse than the base.

    Raises:
        ValueError: If the experts are no better than the base, in the scores or in a resample.
    """
    own = {domain: expert for expert, domain in roles.experts.items()}
    return _share_of_gap(table, run, roles, own)


def forgetting(table: ScoreTable, run: str, roles: Roles) -> Array:
    """Score lost against the base on held-out domains.

    Mean over held-out domains of s(base, domain) - s(run, domain); negative is a gain.

    Raises:
        ValueError: If the roles have no held-out domain.
    """
    if not roles.held_out:
        raise ValueError("forgetting needs a held-out domain in the roles, got none")
    return mean_of([table.domain(roles.base, d) - table.domain(run, d) for d in roles.held_out])


def interference(table: ScoreTable, run: str, roles: Roles) -> Array:
    """Score lost against the experts, each on its own domain, gains not counted.

    Mean over experts' domains of max(0, s(expert, domain) - s(run, domain)). 0 is no loss on
    any domain. Noise alone makes it positive: a merge as good as the experts scores about 0.4
    standard errors of a domain's difference.
    """
    losses = [table.domain(e, d) - table.domain(run, d) for e, d in roles.experts.items()]
    return mean_of([np.maximum(0.0, loss) for loss in losses])


def above_chance(table: ScoreTable, run: str, lower: Mapping[str, float]) -> Array:
    """Score as the second Open LLM Leaderboard normalises it.

    max(0, (s(run, task) - lower) / (1 - lower)), mean over a domain's tasks, then over domains.
    https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization

    Args:
        table: The scores.
        run: Label of the run.
        lower: Task to the score of guessing, in [0, 1): 1 / choices, 0 for free answers; for
            every task of the table.

    Raises:
        ValueError: If a task has no lower bound or one outside [0, 1).
    """
    bounds = np.array([_lower_bound(task, lower) for task in table.domains])
    above = np.maximum(0.0, (table.values - bounds) / (1 - bounds))
    return raw(ScoreTable(values=above, runs=table.runs, domains=table.domains), run)


def estimate(
    metric: Metric, run: str, *, observed: ScoreTable, resampled: ScoreTable
) -> Estimate:
    """A metric of a run, with its bootstrap standard error.

    Args:
        metric: Further arguments bound with ``functools.partial``.
        run: Label of the run.
        observed: The scores, shape (n_runs, n_tasks).
        resampled: Their resamples, shape (n_resamples, n_runs, n_tasks): the same documents
            for all runs, so that errors they share cancel.

    Raises:
        ValueError: If the metric is not defined for these scores.
    """
    return Estimate(
        value=float(metric(observed, run)), stderr=float(metric(resampled, run).std(ddof=1))
    )


def _share_of_gap(table: ScoreTable, run: str, roles: Roles, tops: Mapping[str, str]) -> Array:
    """Gain of a run on the base over the gain of ``tops`` (domain to run), both summed."""
    gains = [table.domain(run, d) - table.domain(roles.base, d) for d in tops]
    gaps = [table.domain(top, d) - table.domain(roles.base, d) for d, top in tops.items()]
    gap = mean_of(gaps)
    if np.any(gap <= 0):
        names = ", ".join(dict.fromkeys(tops.values()))
        raise ValueError(
            f"a share of a gap needs {names} to be better than {roles.base} beyond the noise; "
            f"the gap goes down to {float(gap.min()):.4f}"
        )
    share: Array = mean_of(gains) / gap
    return share


def _relative(table: ScoreTable, run: str, other: str, domain: str) -> Array:
    """Mean over a domain's tasks of the ratio of two runs' scores."""
    ratios = []
    for task in table.tasks_of(domain):
        whole = table.task(other, task)
        if np.any(whole <= 0):
            raise ValueError(
                f"scores relative to {other} need it to score on {task}, also when documents "
                "are drawn again; it scores 0"
            )
        ratios.append(table.task(run, task) / whole)
    return mean_of(ratios)


def _lower_bound(task: str, lower: Mapping[str, float]) -> float:
    if task not in lower:
        raise ValueError(f"{task} needs a lower bound, got bounds for {sorted(lower)}")
    if not 0 <= lower[task] < 1:
        raise ValueError(f"the lower bound of {task} must be in [0, 1), got {lower[task]}")
    return lower[task]


_BBH_CHOICES = {
    "boolean_expressions": 2,
    "causal_judgement": 2,
    "date_understanding": 6,
    "disambiguation_qa": 3,
    "formal_fallacies": 2,
    "geometric_shapes": 11,
    "hyperbaton": 2,
    "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7,
    "logical_deduction_three_objects": 3,
    "movie_recommendation": 6,
    "navigate": 2,
    "object_counting": 19,
    "penguins_in_a_table": 5,
    "reasoning_about_colored_objects": 18,
    "ruin_names": 6,
    "salient_translation_error_detection": 6,
    "snarks": 2,
    "sports_understanding": 2,
    "temporal_sequences": 4,
    "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3,
    "web_of_lies": 2,
}
_MUSR_CHOICES = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
_GPQA_CHOICES = dict.fromkeys(("diamond", "extended", "main"), 4)
_MATH = (
    "algebra",
    "counting_and_prob",
    "geometry",
    "intermediate_algebra",
    "num_theory",
    "prealgebra",
    "precalculus",
)

LEADERBOARD_V2 = {
    **{f"leaderboard_bbh_{task}": 1 / n for task, n in _BBH_CHOICES.items()},
    **{f"leaderboard_musr_{task}": 1 / n for task, n in _MUSR_CHOICES.items()},
    **{f"leaderboard_gpqa_{task}": 1 / n for task, n in _GPQA_CHOICES.items()},
    "leaderboard_mmlu_pro": 1 / 10,
    "leaderboard_ifeval": 0.0,
    **{f"leaderboard_math_{task}_hard": 0.0 for task in _MATH},
}
"""lm-eval task to the lower bound of its score. The board normalises GPQA as one benchmark of
three overlapping sets; as tasks of one domain they are normalised one by one."""
