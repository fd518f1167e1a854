"""Claims of the SeMe paper (arXiv 2505.20144) in words, each judged by its rule from records."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from eval.leaderboard.board import Row
from eval.report.evidence import (
    RIVALS,
    SEME,
    Ground,
    Test,
    candidates,
    chosen_settings,
    is_validation,
    mean_of,
    tests_of,
    title,
)
from eval.report.render import Table
from eval.report.tables import MIB, points, test_table
from eval.report.verdicts import (
    Judgement,
    Verdict,
    ahead_in_all,
    ahead_once_in_each,
    all_of,
    lower_than_each,
    none_ahead,
    significantly_ahead,
)

_MACHINE = ("cpu", "cores", "threads", "platform", "devices")
Cost = Callable[[Row], float | None]
Place = tuple[str, str, str]
"""Pool, content of its models, machine."""


def merge_seconds(row: Row) -> float | None:
    """Wall time of the merge, in seconds."""
    return row.merge_seconds


def merge_bytes(row: Row) -> float | None:
    """Peak RSS of the merge above its start, in MiB."""
    return None if row.merge_bytes is None else row.merge_bytes / MIB


def cost_claim(grounds: Sequence[Ground], quantity: str, cost: Cost) -> Judgement:
    """Judge that SeMe costs less than each of four methods.

    Args:
        grounds: All boards: a merge costs the same whatever it is scored on.
        quantity: ``runtime`` or ``memory``.
        cost: Cost of one row; None where it was not measured.
    """
    unit, form = ("s", ".2f") if quantity == "runtime" else ("MiB", ".0f")
    places = _places(grounds, cost)
    machines = machine_names(place[2] for place in places)
    verdicts = [_judged(costs) for costs in places.values()]
    rows = tuple(
        (place[0], machines[place[2]], title(method), *_spread(costs[method], form))
        for place, costs in places.items()
        for method in (SEME, *RIVALS)
        if method in costs
    )
    header = ("models", "machine", "method", f"median, {unit}", "lowest", "highest", "runs")
    return Judgement(
        claim=f"SeMe costs less {quantity} than averaging, task arithmetic, TIES and DARE.",
        rule="Medians over all finished merges of the same models on one machine (same "
        f"{', '.join(_MACHINE)}), whatever their settings. Supported if SeMe's is below that "
        "of each of the four methods; one that costs no more is enough for not supported; "
        "on every machine and pool where SeMe ran.",
        verdict=all_of(verdicts),
        finding=_finding(places, unit, form),
        evidence=Table(header, rows) if rows else None,
    )


def machine_of(provenance: Mapping[str, object]) -> str:
    """Join the facts that must agree for times to be comparable."""
    return "; ".join(f"{fact} {provenance.get(fact)}" for fact in _MACHINE)


def machine_names(machines: Iterable[str]) -> dict[str, str]:
    """Machine to its processor and cores, or to all its facts where those are ambiguous."""
    short = {machine: ", ".join(machine.split("; ")[:2]) for machine in machines}
    names = list(short.values())
    return {m: name if names.count(name) == 1 else m for m, name in short.items()}


def _places(grounds: Sequence[Ground], cost: Cost) -> dict[Place, dict[str, list[float]]]:
    """Costs by pool and machine, then by method; only places where SeMe was measured."""
    measured: dict[Place, dict[str, list[float]]] = {}
    for ground in grounds:
        for row in ground.board.merges:
            value = cost(row)
            if row.record.status == "done" and value is not None:
                machine = machine_of(row.record.provenance)
                place = (ground.board.pool, ground.board.models, machine)
                measured.setdefault(place, {}).setdefault(row.name, []).append(value)
    return {place: costs for place, costs in sorted(measured.items()) if SEME in costs}


def _judged(costs: Mapping[str, Sequence[float]]) -> Verdict:
    medians = {method: _median(costs, method) for method in (SEME, *RIVALS)}
    return lower_than_each(medians.pop(SEME), medians)


def _median(costs: Mapping[str, Sequence[float]], method: str) -> float | None:
    return statistics.median(costs[method]) if method in costs else None


def _spread(values: Sequence[float], form: str) -> tuple[str, str, str, str]:
    statistic = (statistics.median(values), min(values), max(values))
    middle, lowest, highest = (format(value, form) for value in statistic)
    return middle, lowest, highest, str(len(values))


def _finding(
    places: Mapping[Place, Mapping[str, Sequence[float]]], unit: str, form: str
) -> str:
    """State the medians of the first place, the number of others, and missing rivals."""
    if not places:
        return "No SeMe merge was measured."
    if missing := _unmeasured_rivals(places):
        lacking = f" Never measured beside SeMe: {', '.join(map(title, missing))}."
    else:
        lacking = ""
    (pool, _, _), costs = next(iter(places.items()))
    medians = ", ".join(
        f"{title(m)} {format(statistics.median(costs[m]), form)} {unit}"
        for m in (SEME, *RIVALS)
        if m in costs
    )
    others = f" (and {len(places) - 1} other pools or machines)" if len(places) > 1 else ""
    return f"{pool}{others}: {medians}.{lacking}"


def _unmeasured_rivals(places: Mapping[Place, Mapping[str, Sequence[float]]]) -> list[str]:
    return [
        method for method in RIVALS if not any(method in costs for costs in places.values())
    ]


LOWEST_TAU, HIGHEST_TAU = 0.1, 0.3
"""The range of tau that the paper names as the one to try."""
_NAMES_DATA = ("calibration", "corpus", "data", "documents", "samples", "texts")


def claims_of(grounds: Sequence[Ground]) -> list[Judgement]:
    """Judge every claim of the paper.

    Args:
        grounds: All boards of an experiment. In comparisons of methods, boards on the
            validation split serve only to choose the settings.
    """
    return [
        *performance_claims(grounds),
        cost_claim(grounds, "runtime", merge_seconds),
        cost_claim(grounds, "memory", merge_bytes),
        no_data_claim(grounds),
        architectures_claim(grounds),
        tau_claim(grounds),
    ]


def performance_claims(grounds: Sequence[Ground]) -> list[Judgement]:
    """Judge that SeMe has a better average performance than each of four methods."""
    reported = [ground for ground in grounds if not is_validation(ground.board)]
    asked = {rival: _against(reported, grounds, rival) for rival in RIVALS}
    tests = iter(tests_of([pair for pairs in asked.values() for pair in pairs]))
    return [
        _performance(rival, [next(tests) for _ in asked[rival]], reported) for rival in RIVALS
    ]


def no_data_claim(grounds: Sequence[Ground]) -> Judgement:
    """Judge that SeMe needs no data."""
    merges = [row.record for row in _seme_rows(grounds)]
    named = sorted({key for r in merges for key in r.settings if _names_data(key)})
    if not merges:
        verdict, finding = Verdict.NOT_MEASURED, "No SeMe merge is done."
    elif named:
        verdict, finding = Verdict.NOT_SUPPORTED, f"Settings name data: {', '.join(named)}."
    else:
        verdict = Verdict.SUPPORTED
        finding = (
            f"{_counted(len(merges), 'SeMe merge')} read models and hyper-parameters only. "
            f"{_chosen_with_data(grounds)}"
        )
    return Judgement(
        claim="SeMe needs no data.",
        rule="A record states all that a merge was given: models and settings. Supported if "
        "SeMe merges are done and no setting of theirs names data (in its name: "
        f"{', '.join(_NAMES_DATA)}). This holds by construction and can only be contradicted.",
        verdict=verdict,
        finding=finding,
    )


def architectures_claim(grounds: Sequence[Ground]) -> Judgement:
    """Judge that SeMe works across architectures."""
    unlike = [ground for ground in grounds if _is_unlike(ground)]
    asked = [
        [(ground, row, ground.pivot) for row in _rows(ground, SEME) if _testable(ground, row)]
        for ground in unlike
    ]
    results = iter(
        tests_of([(g, a, b) for pairs in asked for g, a, b in pairs if b is not None])
    )
    groups = [[next(results) for _ in pairs] for pairs in asked]
    tests = [test for group in groups for test in group]
    done = [row for ground in unlike for row in _rows(ground, SEME)]
    return Judgement(
        claim="SeMe works across architectures.",
        rule="Pools count whose models another method refused as not of the pivot's shape. "
        "Supported if on each of them a SeMe merge is significantly better than its pivot "
        "alone: a merge that is worth less than no merge does not work. Taking the best of "
        "several merges on the test split favours the claim.",
        verdict=ahead_once_in_each([[test.result for test in group] for group in groups]),
        finding=_across(done, unlike, tests),
        evidence=test_table(
            "SeMe across architectures", [max(g, key=_gain) for g in groups if g]
        ),
    )


def tau_claim(grounds: Sequence[Ground]) -> Judgement:
    """Judge that 10 to 30 % is the range of tau to try."""
    tests = tests_of([pair for ground in grounds for pair in _outside_against_inside(ground)])
    below = [test.result for test in tests if _tau(test.first) < LOWEST_TAU]
    above = [test.result for test in tests if _tau(test.first) > HIGHEST_TAU]
    if tests:
        finding = (
            f"{sum(map(significantly_ahead, below))} of {_counted(len(below), 'merge')} below "
            f"the range and {sum(map(significantly_ahead, above))} of {len(above)} above it are "
            "significantly better than the best inside."
        )
    else:
        finding = "No board has SeMe merges both inside and outside the range."
    return Judgement(
        claim="A tau of 10 to 30 % is the range to try.",
        rule=f"Every SeMe merge with tau below {LOWEST_TAU:g} or above {HIGHEST_TAU:g} is "
        "compared with the best one inside, whatever their other settings. Supported if none "
        "is significantly better (Holm's correction over all of them) and both sides were "
        "tried. This favours the claim: the best inside is picked by the scores it is judged "
        "by, and a difference too small to be found counts for it.",
        verdict=none_ahead(below, above),
        finding=finding,
        evidence=test_table("tau outside the range", tests),
    )


def _performance(rival: str, tests: Sequence[Test], reported: Sequence[Ground]) -> Judgement:
    ahead = [t for t in tests if significantly_ahead(t.result)]
    behind = [t for t in tests if t.result.differs and t.result.difference.value < 0]
    if tests:
        gains = [t.result.difference.value for t in tests]
        finding = (
            f"SeMe minus {title(rival)}: {points(min(gains))}"
            f"{f' to {points(max(gains))}' if len(gains) > 1 else ''} points; significantly "
            f"ahead in {len(ahead)} of {_counted(len(tests), 'comparison')}, behind in {len(behind)}."
        )
    else:
        finding = _why_untested(rival, reported)
    return Judgement(
        claim=f"SeMe has a better average performance than {title(rival)}.",
        rule="Each method is represented by the setting that the validation split chooses, "
        "or, where none was chosen, by all its settings; each seed counts as a run. Supported "
        "if SeMe's mean over domains is significantly higher in every pair of runs (two-sided "
        "paired permutation test over documents, Holm's correction over the pairs of all "
        "rivals, 5 %).",
        verdict=ahead_in_all([test.result for test in tests]),
        finding=finding,
        evidence=test_table(f"SeMe against {title(rival)}", tests),
    )


def _against(
    reported: Sequence[Ground], grounds: Sequence[Ground], rival: str
) -> list[tuple[Ground, Row, Row]]:
    """Pair every SeMe run with every run of a rival on the same board."""
    boards = [ground.board for ground in grounds]
    return [
        (ground, seme_row, rival_row)
        for ground in reported
        for seme_row in candidates(ground.board, boards, SEME)
        for rival_row in candidates(ground.board, boards, rival)
        if ground.has(seme_row, rival_row)
    ]


def _why_untested(rival: str, reported: Sequence[Ground]) -> str:
    """Name the runs that a comparison with a rival lacks."""
    for method in (SEME, rival):
        if not [row for ground in reported for row in _rows(ground, method)]:
            return f"No complete run of {title(method)} outside the validation split."
    return (
        f"SeMe and {title(rival)} have no two runs on one board, at the settings chosen on "
        "validation where there are any, with their per-document scores."
    )


def _outside_against_inside(ground: Ground) -> list[tuple[Ground, Row, Row]]:
    """Pair each SeMe row with tau outside the range with the best one inside."""
    rows = [row for row in _rows(ground, SEME) if ground.has(row)]
    inside = [row for row in rows if _inside(row)]
    best = max(inside, key=mean_of, default=None)
    outside = [row for row in rows if not _inside(row)]
    return [] if best is None else [(ground, row, best) for row in outside]


def _across(done: Sequence[Row], unlike: Sequence[Ground], tests: Sequence[Test]) -> str:
    if not unlike:
        return "No pool here has sources of another shape than the pivot's."
    merged = f"{_counted(len(done), 'SeMe merge')} done on {_counted(len(unlike), 'such pool')}"
    if not tests:
        return f"{merged}; their scores cannot be tested against the pivot's."
    better = sum(significantly_ahead(test.result) for test in tests)
    best = max(tests, key=_gain)
    return (
        f"{merged}; {better} of {len(tests)} significantly better than the pivot alone. The "
        f"nearest is {points(best.result.difference.value)} points from its pivot."
    )


def _chosen_with_data(grounds: Sequence[Ground]) -> str:
    boards = [ground.board for ground in grounds]
    used = any(chosen_settings(b, boards, SEME) for b in boards if not is_validation(b))
    return (
        "Their hyper-parameters were chosen on the validation split, which is data."
        if used
        else "No run on a validation split is among these records: whether their hyper-parameters were "
        "chosen with data, they do not tell."
    )


def _is_unlike(ground: Ground) -> bool:
    """Whether a method refused the models of this board for their shape."""
    merges = ground.board.merges
    return not is_validation(ground.board) and any(
        row.record.status == "not applicable" for row in merges
    )


def _testable(ground: Ground, row: Row) -> bool:
    return ground.pivot is not None and ground.has(row, ground.pivot)


def _seme_rows(grounds: Sequence[Ground]) -> list[Row]:
    rows = [row for ground in grounds for row in ground.board.merges]
    return [row for row in rows if row.name == SEME and row.record.status == "done"]


def _rows(ground: Ground, method: str) -> list[Row]:
    return [row for row in ground.board.merges if row.name == method and row.mean is not None]


def _names_data(key: str) -> bool:
    return any(word in key.lower().split("_") for word in _NAMES_DATA)


def _tau(row: Row) -> float:
    return float(row.record.settings["tau"])


def _inside(row: Row) -> bool:
    return LOWEST_TAU <= _tau(row) <= HIGHEST_TAU


def _gain(test: Test) -> float:
    return test.result.difference.value


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
