"""What merging costs: medians over runs on one machine, and the claims about them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from eval.leaderboard.board import Row
from eval.report.document import Table
from eval.report.entries import RIVALS, SEME, title
from eval.report.evidence import Ground
from eval.report.verdicts import Judgement, Verdict, all_of, lower_than_each

_MIB = 2**20
_MACHINE = ("cpu", "cores", "threads", "platform", "devices")
Cost = Callable[[Row], float | None]
Place = tuple[str, str, str]
"""Pool, content of its models, machine."""


def merge_seconds(row: Row) -> float | None:
    """Time of the merge in seconds."""
    return row.merge_seconds


def merge_bytes(row: Row) -> float | None:
    """Peak memory of the merge above where it started, in MiB."""
    return None if row.merge_bytes is None else row.merge_bytes / _MIB


def cost_claim(grounds: Sequence[Ground], quantity: str, cost: Cost) -> Judgement:
    """SeMe costs less than each of four methods.

    Args:
        grounds: All boards: a merge costs the same whatever it is scored on.
        quantity: ``runtime`` or ``memory``.
        cost: Of one row; None where it was not measured.
    """
    unit, form = ("s", ".2f") if quantity == "runtime" else ("MiB", ".0f")
    places = _places(grounds, cost)
    machines = machine_names(place[2] for place in places)
    verdicts = [_judged(found) for found in places.values()]
    rows = tuple(
        (place[0], machines[place[2]], title(method), *_spread(found[method], form))
        for place, found in places.items()
        for method in (SEME, *RIVALS)
        if method in found
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
        evidence=Table(header, rows, name=quantity) if rows else None,
    )


def machine_of(provenance: Mapping[str, object]) -> str:
    """The facts that must agree for times to be compared, as one text."""
    return "; ".join(f"{fact} {provenance.get(fact)}" for fact in _MACHINE)


def machine_names(machines: Iterable[str]) -> dict[str, str]:
    """Machine to a short name: its processor and cores; all it is where that names several."""
    short = {machine: ", ".join(machine.split("; ")[:2]) for machine in machines}
    names = list(short.values())
    return {m: name if names.count(name) == 1 else m for m, name in short.items()}


def _places(grounds: Sequence[Ground], cost: Cost) -> dict[Place, dict[str, list[float]]]:
    """Costs by pool and machine, then by method, where SeMe was measured."""
    found: dict[Place, dict[str, list[float]]] = {}
    for ground in grounds:
        for row in ground.board.merges:
            value = cost(row)
            if row.record.status == "done" and value is not None:
                machine = machine_of(row.record.provenance)
                place = (ground.board.pool, ground.board.models, machine)
                found.setdefault(place, {}).setdefault(row.name, []).append(value)
    return {place: costs for place, costs in sorted(found.items()) if SEME in costs}


def _judged(costs: Mapping[str, Sequence[float]]) -> Verdict:
    medians = {method: _median(costs, method) for method in (SEME, *RIVALS)}
    return lower_than_each(medians.pop(SEME), medians)


def _median(costs: Mapping[str, Sequence[float]], method: str) -> float | None:
    return statistics.median(costs[method]) if method in costs else None


def _spread(values: Sequence[float], form: str) -> tuple[str, str, str, str]:
    shown = (statistics.median(values), min(values), max(values))
    middle, lowest, highest = (format(value, form) for value in shown)
    return middle, lowest, highest, str(len(values))


def _finding(
    places: Mapping[Place, Mapping[str, Sequence[float]]], unit: str, form: str
) -> str:
    """The medians of the first place, or what is missing; how many there are."""
    if not places:
        return "No SeMe merge was measured."
    if missing := _never_beside(places):
        lacking = f" Never measured beside SeMe: {', '.join(map(title, missing))}."
    else:
        lacking = ""
    (pool, _, _), costs = next(iter(places.items()))
    shown = ", ".join(
        f"{title(m)} {format(statistics.median(costs[m]), form)} {unit}"
        for m in (SEME, *RIVALS)
        if m in costs
    )
    others = f" (and {len(places) - 1} other pools or machines)" if len(places) > 1 else ""
    return f"{pool}{others}: {shown}.{lacking}"


def _never_beside(places: Mapping[Place, Mapping[str, Sequence[float]]]) -> list[str]:
    return [
        method for method in RIVALS if not any(method in costs for costs in places.values())
    ]
