"""Rank bands under simulation: ``python -m scripts.benchmark.rank_bands``.

Every benchmark drawn has six tasks of byte likelihood and six of accuracy, 200 documents each,
and merges whose true means are known. For each method of correction the table gives the share
of benchmarks in which any two equal merges are called different (family-wise error), the share
in which a band claims so, and the share of the merges truly worse than the best observed one
that are called different from it (power).
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from eval.statistics.bands import (
    contributions,
    group_by_leader,
    pair_p_values,
    pair_statistics,
)
from eval.statistics.compare import LEVEL, NEGLIGIBLE
from eval.statistics.samples import Array, MatchedTask, Panel
from eval.statistics.scores import holm

_N_TASKS, _N_DOCUMENTS = 12, 200
_N_RESAMPLES = 999
_REDRAWN = 0.01
"""Share of documents on which a near-identical merge differs from the one before it."""

Differs = NDArray[np.bool_]
"""Pairs called different, symmetric, shape (n_runs, n_runs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A population that benchmarks are drawn from."""

    name: str
    lifts: tuple[float, ...]
    """True gain of each merge on the worst, roughly the gain of its overall mean."""
    accuracy: float = 0.6
    """Share of documents that the worst merge gets right; near 0 or 1 they are skewed."""
    copies: int = 0
    """Number of merges that are nearly identical with an equal merge before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares over the benchmarks drawn."""

    false_pair: float
    false_band: float
    power: float
    """NaN where no merge is worse than another."""


def clusters(*sizes: int, step: float = 0.015) -> tuple[float, ...]:
    """Lifts of clusters of equal merges, each so much better than the one before."""
    return tuple(place * step for place, size in enumerate(sizes) for _ in range(size))


SCENARIOS = (
    Scenario(name="10 equal", lifts=clusters(10)),
    Scenario(name="10 equal, 4 near-identical", lifts=clusters(10), copies=4),
    Scenario(name="10 equal, 3 % right", lifts=clusters(10), accuracy=0.03),
    Scenario(name="50 equal", lifts=clusters(50)),
    Scenario(name="50 equal, 20 near-identical", lifts=clusters(50), copies=20),
    Scenario(name="50 equal, 3 % right", lifts=clusters(50), accuracy=0.03),
    Scenario(name="3 clusters of 10", lifts=clusters(4, 3, 3)),
    Scenario(name="3 clusters of 50", lifts=clusters(17, 17, 16)),
    Scenario(name="3 clusters of 50, 20 near-identical", lifts=clusters(17, 17, 16), copies=20),
    Scenario(name="25 equal, 25 spread", lifts=(*clusters(25), *np.linspace(0.002, 0.05, 25))),
)


def draw_panel(scenario: Scenario, rng: np.random.Generator) -> Panel:
    """Draw documents and what every merge reaches on them.

    Merges share the difficulty of a document to different degrees, so that errors are
    correlated and differences of pairs have unequal variances.
    """
    lifts = np.array(scenario.lifts)
    shared = rng.uniform(0.75, 0.99, len(lifts))[:, None]
    redrawn = rng.random((len(lifts), _N_TASKS, _N_DOCUMENTS)) < _REDRAWN
    tasks = {}
    for place in range(_N_TASKS):
        own = rng.normal(size=(len(lifts), _N_DOCUMENTS))
        latent = shared * rng.normal(size=_N_DOCUMENTS) + np.sqrt(1 - shared**2) * own
        for copy in _copies(scenario):
            latent[copy] = np.where(redrawn[copy, place], latent[copy], latent[copy - 1])
        is_bits = place < _N_TASKS // 2
        if is_bits:
            sizes = rng.integers(80, 400, _N_DOCUMENTS).astype(np.float64)
            totals = sizes * (-np.log2(0.25 + lifts)[:, None] - 0.4 * latent)
        else:
            sizes = np.ones(_N_DOCUMENTS)
            cuts = [NormalDist().inv_cdf(scenario.accuracy + lift) for lift in scenario.lifts]
            totals = (latent < np.array(cuts)[:, None]).astype(float)
        tasks[f"t{place}"] = MatchedTask(totals=totals, sizes=sizes, is_bits=is_bits)
    runs = tuple(f"r{i}" for i in range(len(lifts)))
    return Panel(runs=runs, domains={name: name for name in tasks}, tasks=tasks)


def simulate(scenario: Scenario, *, n_panels: int, seed: int) -> dict[str, Rates]:
    """Rates of every method of correction on the same benchmarks.

    Args:
        scenario: The population.
        n_panels: Number of benchmarks, at least 1.
        seed: Same seed, same benchmarks.

    Returns:
        ``step-down maxT`` is that of the rank bands; ``Holm, all pairs`` and, without a
        correction for the choice of the leader, ``Holm, leader only`` use the normal limit of
        the sign-flip test.
    """
    rng = np.random.default_rng(seed)
    outcomes: dict[str, list[tuple[bool, bool, float]]] = {}
    for place in range(n_panels):
        panel = draw_panel(scenario, rng)
        means = np.concatenate(list(contributions(panel, panel.runs).values())).sum(axis=0)
        order = np.argsort(-means)
        ranked = [panel.runs[i] for i in order]
        for method, differs in _called_different(panel, ranked, seed=place).items():
            outcome = _outcome(differs, np.array(scenario.lifts)[order])
            outcomes.setdefault(method, []).append(outcome)
    return {method: _rates(of) for method, of in outcomes.items()}


def main(arguments: list[str]) -> int:
    """Print a table of all scenarios.

    Args:
        arguments: Nothing, or the number of benchmarks a scenario (default 1000).

    Returns:
        0; 2 if the arguments cannot be read.
    """
    if len(arguments) > 1 or not all(argument.isdecimal() for argument in arguments):
        print("usage: python -m scripts.benchmark.rank_bands [BENCHMARKS]", file=sys.stderr)
        return 2
    n_panels = int(arguments[0]) if arguments else 1000
    print("| merges | correction | false pair, % | false band, % | power, % |")
    print("| --- | --- | --- | --- | --- |")
    for scenario in SCENARIOS:
        for method, rates in simulate(scenario, n_panels=n_panels, seed=0).items():
            shares = (rates.false_pair, rates.false_band, rates.power)
            cells = " | ".join(f"{100 * share:.1f}" for share in shares)
            print(f"| {scenario.name} | {method} | {cells} |", flush=True)
    return 0


def _rates(outcomes: Sequence[tuple[bool, bool, float]]) -> Rates:
    pairs, bands, powers = zip(*outcomes, strict=True)
    defined = [power for power in powers if not math.isnan(power)]
    return Rates(
        false_pair=sum(pairs) / len(pairs),
        false_band=sum(bands) / len(bands),
        power=math.fsum(defined) / len(defined) if defined else math.nan,
    )


def _copies(scenario: Scenario) -> list[int]:
    """Places of the near-identical merges, each after one with the same lift."""
    lifts = scenario.lifts
    equal = [i for i in range(1, len(lifts)) if lifts[i] == lifts[i - 1]]
    return equal[: scenario.copies]


def _called_different(panel: Panel, ranked: Sequence[str], seed: int) -> Mapping[str, Differs]:
    """Method of correction to the pairs it calls different, best merge first."""
    p_values = pair_p_values(panel, ranked, n_resamples=_N_RESAMPLES, seed=seed)
    values = np.concatenate(list(contributions(panel, ranked).values()))
    differences, scales = pair_statistics(values)
    statistics = np.where(differences < NEGLIGIBLE, 0.0, differences * scales)
    raw = np.array([[math.erfc(one / math.sqrt(2)) for one in row] for row in statistics])
    pairs = list(combinations(range(len(ranked)), 2))
    return {
        "step-down maxT": p_values < LEVEL,
        "Holm, all pairs": _holm(raw, pairs),
        "Holm, leader only": _holm(raw, [(0, i) for i in range(1, len(ranked))]),
    }


def _holm(raw: Array, pairs: Sequence[tuple[int, int]]) -> Differs:
    differs = np.zeros(raw.shape, dtype=np.bool_)
    for (i, j), p_value in zip(pairs, holm([float(raw[pair]) for pair in pairs]), strict=True):
        differs[i, j] = differs[j, i] = p_value < LEVEL
    return differs


def _outcome(differs: Differs, lifts: Array) -> tuple[bool, bool, float]:
    """A false pair, a false claim of a band, and the power against the best merge.

    Args:
        differs: Pairs called different, best observed merge first.
        lifts: True lifts in the same order.
    """
    wrong = differs & (lifts[:, None] <= lifts)
    np.fill_diagonal(wrong, val=False)
    above = np.triu(wrong, 1)  # a claim is that the merge ranked higher is better
    bands = np.array(group_by_leader(differs))
    leaders = [int(np.argmax(bands == band)) for band in range(1, bands.max() + 1)]
    claimed = any((above[leader] & (bands > bands[leader])).any() for leader in leaders)
    worse = lifts < lifts[0]
    power = float(differs[0][worse].mean()) if worse.any() else math.nan
    return bool(above.any()), claimed, power


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
