"""Claims of the SeMe paper (arXiv 2505.20144), each judged by a fixed rule from records."""

import statistics
from collections.abc import Mapping, Sequence

from eval.leaderboard.board import Board, Row
from eval.report.evidence import (
    RIVALS,
    SEME,
    Pair,
    PairedTest,
    candidates,
    grouped_tests,
    has_samples,
    is_validation,
    mean_of,
    pivot_row,
    tests_of,
    title,
)
from eval.report.render import Table
from eval.report.tables import MACHINE_FACTS, machine_names, machine_of, test_table
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
from eval.tables import MIB, points

LOWEST_TAU, HIGHEST_TAU = 0.1, 0.3
"""The range of tau that the paper names as the one to try."""
_NAMES_DATA = ("calibration", "corpus", "data", "documents", "samples", "texts")
Place = tuple[str, str, str]
"""Pool, content of its models, machine."""


def cost_claim(boards: Sequence[Board], quantity: str) -> Judgement:
    """Judge that SeMe costs less than each of four methods.

    Args:
        boards: All boards: a merge costs the same whatever it is scored on.
        quantity: ``runtime`` or ``memory``.
    """
    unit, form = ("s", ".2f") if quantity == "runtime" else ("MiB", ".0f")
    places = _places(boards, quantity)
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
        f"{', '.join(MACHINE_FACTS)}), whatever their settings. Supported if SeMe's is below "
        "that of each of the four methods; one that costs no more is enough for not supported; "
        "on every machine and pool where SeMe ran.",
        verdict=all_of(verdicts),
        finding=_finding(places, unit, form),
        evidence=Table(header, rows) if rows else None,
    )


def _places(boards: Sequence[Board], quantity: str) -> dict[Place, dict[str, list[float]]]:
    """Costs by pool and machine, then by method; only places where SeMe was measured."""
    measured: dict[Place, dict[str, list[float]]] = {}
    for board in boards:
        for row in board.merges:
            value = _cost(row, quantity)
            if row.record.status == "done" and value is not None:
                machine = machine_of(row.record.provenance)
                place = (board.pool, board.models, machine)
                measured.setdefault(place, {}).setdefault(row.name, []).append(value)
    return {place: costs for place, costs in sorted(measured.items()) if SEME in costs}


def _cost(row: Row, quantity: str) -> float | None:
    """Seconds of a merge, or its peak RSS above its start in MiB; None if not measured."""
    if quantity == "runtime":
        return row.merge_seconds
    return None if row.merge_bytes is None else row.merge_bytes / MIB


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
    measured = {method for costs in places.values() for method in costs}
    missing = ", ".join(title(method) for method in RIVALS if method not in measured)
    lacking = f" Never measured beside SeMe: {missing}." if missing else ""
    (pool, _, _), costs = next(iter(places.items()))
    medians = ", ".join(
        f"{title(m)} {format(statistics.median(costs[m]), form)} {unit}"
        for m in (SEME, *RIVALS)
        if m in costs
    )
    others = f" (and {len(places) - 1} other pools or machines)" if len(places) > 1 else ""
    return f"{pool}{others}: {medians}.{lacking}"


def claims_of(boards: Sequence[Board]) -> list[Judgement]:
    """Judge every claim of the paper.

    Args:
        boards: All boards of an experiment. In comparisons of methods, boards on the
            validation split serve only to choose the settings.
    """
    return [
        *performance_claims(boards),
        cost_claim(boards, "runtime"),
        cost_claim(boards, "memory"),
        no_data_claim(boards),
        architectures_claim(boards),
        tau_claim(boards),
    ]


def performance_claims(boards: Sequence[Board]) -> list[Judgement]:
    """Judge that SeMe has a better average performance than each of four methods."""
    reported = [board for board in boards if not is_validation(board)]
    tests = grouped_tests({rival: _against(reported, boards, rival) for rival in RIVALS})
    return [_performance(rival, tests[rival], reported) for rival in RIVALS]


def no_data_claim(boards: Sequence[Board]) -> Judgement:
    """Judge that SeMe needs no data."""
    merges = [row.record for row in _seme_rows(boards)]
    named = sorted({key for r in merges for key in r.settings if _names_data(key)})
    if not merges:
        verdict, finding = Verdict.NOT_MEASURED, "No SeMe merge is done."
    elif named:
        verdict, finding = Verdict.NOT_SUPPORTED, f"Settings name data: {', '.join(named)}."
    else:
        verdict = Verdict.SUPPORTED
        finding = (
            f"{_counted(len(merges), 'SeMe merge')} read models and hyper-parameters only. "
            f"{_chosen_with_data(boards)}"
        )
    return Judgement(
        claim="SeMe needs no data.",
        rule="A record states all that a merge was given: models and settings. Supported if "
        "SeMe merges are done and no setting of theirs names data (in its name: "
        f"{', '.join(_NAMES_DATA)}). This holds by construction and can only be contradicted.",
        verdict=verdict,
        finding=finding,
    )


def architectures_claim(boards: Sequence[Board]) -> Judgement:
    """Judge that SeMe works across architectures."""
    unlike = [board for board in boards if _is_unlike(board)]
    asked = {i: _against_pivot(board) for i, board in enumerate(unlike)}
    groups = grouped_tests(asked).values()
    tests = [test for group in groups for test in group]
    done = [row for board in unlike for row in _rows(board, SEME)]
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


def tau_claim(boards: Sequence[Board]) -> Judgement:
    """Judge that 10 to 30 % is the range of tau to try."""
    tests = tests_of([pair for board in boards for pair in _outside_against_inside(board)])
    below = [test.result for test in tests if _tau(test.first) < LOWEST_TAU]
    above = [test.result for test in tests if _tau(test.first) > HIGHEST_TAU]
    if tests:
        finding = (
            f"{sum(map(significantly_ahead, below))} of {_counted(len(below), 'merge')} below "
            f"the range and {sum(map(significantly_ahead, above))} of {len(above)} above it "
            "are significantly better than the best inside."
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


def _performance(
    rival: str, tests: Sequence[PairedTest], reported: Sequence[Board]
) -> Judgement:
    ahead = [t for t in tests if significantly_ahead(t.result)]
    behind = [t for t in tests if t.result.differs and t.result.difference.value < 0]
    if tests:
        gains = [t.result.difference.value for t in tests]
        finding = (
            f"SeMe minus {title(rival)}: {points(min(gains))}"
            f"{f' to {points(max(gains))}' if len(gains) > 1 else ''} points; significantly "
            f"ahead in {len(ahead)} of {_counted(len(tests), 'comparison')}, "
            f"behind in {len(behind)}."
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


def _against(reported: Sequence[Board], boards: Sequence[Board], rival: str) -> list[Pair]:
    """Pair every SeMe run with every run of a rival on the same board."""
    return [
        (board, seme_row, rival_row)
        for board in reported
        for seme_row in candidates(board, boards, SEME)
        for rival_row in candidates(board, boards, rival)
        if has_samples(seme_row, rival_row)
    ]


def _why_untested(rival: str, reported: Sequence[Board]) -> str:
    """Name the runs that a comparison with a rival lacks."""
    for method in (SEME, rival):
        if not [row for board in reported for row in _rows(board, method)]:
            return f"No complete run of {title(method)} outside the validation split."
    return (
        f"SeMe and {title(rival)} have no two runs on one board, at the settings chosen on "
        "validation where there are any, with their per-document scores."
    )


def _outside_against_inside(board: Board) -> list[Pair]:
    """Pair each SeMe row with tau outside the range with the best one inside."""
    rows = [row for row in _rows(board, SEME) if has_samples(row)]
    inside = [row for row in rows if _inside(row)]
    best = max(inside, key=mean_of, default=None)
    outside = [row for row in rows if not _inside(row)]
    return [] if best is None else [(board, row, best) for row in outside]


def _across(done: Sequence[Row], unlike: Sequence[Board], tests: Sequence[PairedTest]) -> str:
    if not unlike:
        return "No pool here has sources that a method refused for their shape."
    merged = f"{_counted(len(done), 'SeMe merge')} done on {_counted(len(unlike), 'such pool')}"
    if not tests:
        return f"{merged}; their scores cannot be tested against the pivot's."
    better = sum(significantly_ahead(test.result) for test in tests)
    best = max(tests, key=_gain)
    return (
        f"{merged}; {better} of {len(tests)} significantly better than the pivot alone. The "
        f"nearest is {points(best.result.difference.value)} points from its pivot."
    )


def _chosen_with_data(boards: Sequence[Board]) -> str:
    reported = {board.models for board in boards if not is_validation(board)}
    used = any(is_validation(b) and b.models in reported and _rows(b, SEME) for b in boards)
    return (
        "Their hyper-parameters were chosen on the validation split, which is data."
        if used
        else "No run on a validation split is among these records: whether their "
        "hyper-parameters were chosen with data, they do not tell."
    )


def _is_unlike(board: Board) -> bool:
    """True if a method refused the models of this board for their shape."""
    refused = any(row.record.status == "not applicable" for row in board.merges)
    return refused and not is_validation(board)


def _against_pivot(board: Board) -> list[Pair]:
    """Pair each SeMe row with the pivot; none if either has no samples."""
    pivot = pivot_row(board)
    rows = _rows(board, SEME)
    return [
        (board, row, pivot) for row in rows if pivot is not None and has_samples(row, pivot)
    ]


def _seme_rows(boards: Sequence[Board]) -> list[Row]:
    rows = [row for board in boards for row in board.merges]
    return [row for row in rows if row.name == SEME and row.record.status == "done"]


def _rows(board: Board, method: str) -> list[Row]:
    return [row for row in board.merges if row.name == method and row.mean is not None]


def _names_data(key: str) -> bool:
    return any(word in key.lower().split("_") for word in _NAMES_DATA)


def _tau(row: Row) -> float:
    tau = row.record.settings["tau"]
    return 1.0 if tau == "all" else float(tau)


def _inside(row: Row) -> bool:
    return LOWEST_TAU <= _tau(row) <= HIGHEST_TAU


def _gain(test: PairedTest) -> float:
    return test.result.difference.value


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
