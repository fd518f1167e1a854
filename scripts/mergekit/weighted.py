"""mergekit's methods of weighted task vectors, in this project's definitions and in its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.mergekit.parameters import Setting
from scripts.mergekit.work import Translation, Values, Work


def arithmetic_values(**steps: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return values of ``mergekit_arithmetic`` that nothing varies."""
    return {
        "origin": "pivot", "densities": None, "gamma": 0.01, "epsilon": 0.15, **steps,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Weighted:
    """One of mergekit's methods of weighted task vectors."""

    trim: str
    elect: bool
    normalize: bool
    """Default."""
    rescale: bool
    """Default."""
    own: "Callable[[Work, _Read], Translation] | None"
    """In this project's definition; None where there is none."""

    def __call__(self, work: Work) -> Translation:
        work.demand_base()
        read = self._read(work)
        if work.as_mergekit:
            return self._as_mergekit(work, read)
        if self.own is None:
            work.lacking("merge_method", f"{work.recipe.method} has no method here")
            return work.done("mergekit_arithmetic", {})
        return self.own(work, read)

    def _read(self, work: Work) -> "_Read":
        parameters, models = work.parameters, work.others
        parameters.switch("int8_mask", False)
        trimmed = self.trim != "none"
        return _Read(
            weights=parameters.each(models, "weight"),
            densities=parameters.each(models, "density", 1.0) if trimmed else None,
            gammas=parameters.each(models, "gamma", 0.01) if self.trim == "outliers" else None,
            epsilons=parameters.each(models, "epsilon", 0.15) if self.trim == "rank" else None,
            lam=parameters.shared("lambda", 1.0),
            normalize=parameters.switch("normalize", self.normalize),
            rescale=parameters.switch("rescale", self.rescale) if trimmed else False,
        )

    def _as_mergekit(self, work: Work, read: "_Read") -> Translation:
        values = arithmetic_values(
            trim=self.trim,
            elect=self.elect,
            normalize=read.normalize,
            rescale=read.rescale,
        )
        values |= {"weights": read.weights, "lam": read.lam}
        if read.densities is not None:
            values["densities"] = read.densities
        if read.gammas is not None:
            values["gamma"] = work.alike(read.gammas, "gamma")
        if read.epsilons is not None:
            values["epsilon"] = work.alike(read.epsilons, "epsilon")
        if self.trim in ("random", "rank") and not _is_dense(read):
            work.differences.append("what is dropped is drawn from other random numbers")
        return work.done("mergekit_arithmetic", values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """Parameters of a method of weighted task vectors; None for those it has not."""

    weights: list[Setting]
    densities: list[Setting] | None
    gammas: list[Setting] | None
    epsilons: list[Setting] | None
    lam: Setting
    normalize: bool
    rescale: bool


def _is_dense(read: _Read) -> bool:
    return all(density.constant == 1 for density in read.densities or ())


def _density(work: Work, read: _Read) -> Setting:
    assert read.densities is not None, "the method trims"
    return work.alike(read.densities, "density")


def _scale(work: Work, read: _Read) -> Setting:
    """Return lambda times the weight that all sources share."""
    weight = work.alike(read.weights, "weight")
    lam, factor = read.lam.constant, weight.constant
    if isinstance(lam, int | float):
        return weight.times(lam)
    if isinstance(factor, int | float):
        return read.lam.times(factor)
    work.lacking("parameters.lambda", "and weight cannot both differ by tensor")
    return read.lam


def _mean_scale(work: Work, read: _Read) -> Setting:
    """Return the scale of the mean of values of one sign; equal weights cancel in it."""
    weight = work.alike(read.weights, "weight")
    points = [c.value for conditions in weight.by_slice for c in conditions]
    numbers = [v for p in points for v in (p if isinstance(p, tuple) else (p,))]
    if not all(isinstance(v, int | float) and v > 0 for v in numbers):
        work.lacking("models.*.parameters.weight", "must be positive")
    if read.normalize:
        return read.lam
    work.differences.append(
        "values of the elected sign are averaged; mergekit adds them up (normalize: false)"
    )
    return _scale(work, read)


def _refuse_normalize(work: Work, read: _Read) -> None:
    if read.normalize:
        work.lacking("parameters.normalize", "task vectors are not divided by their weights")


def _task_arithmetic(work: Work, read: _Read) -> Translation:
    _refuse_normalize(work, read)
    return work.done("task_arithmetic", {"weights": read.weights, "lam": read.lam})


def _ties(work: Work, read: _Read) -> Translation:
    if read.rescale:
        work.lacking("parameters.rescale", "trimmed task vectors are not rescaled")
    if not _is_dense(read):
        work.differences.append(
            "kept are round(density n) elements, never a zero; mergekit keeps int(density n), at "
            "least 1"
        )
    work.differences.append("a zero sum elects nobody; mergekit elects plus")
    values: Values = {
        "density": _density(work, read),
        "lam": _mean_scale(work, read),
        "scope": "tensor",
        "trim_ties": "exact",
    }
    return work.done("ties", values)


def _demand_rescale(work: Work, read: _Read, factor: str) -> None:
    if _is_dense(read):
        return
    if not read.rescale:
        work.lacking("parameters.rescale", "survivors are always rescaled")
    work.differences += [
        f"survivors are divided by {factor}; mergekit restores the L1 norm of each tensor",
        "what is dropped is drawn from other random numbers",
    ]


def _dare(work: Work, read: _Read) -> Translation:
    _refuse_normalize(work, read)
    _demand_rescale(work, read, "the density")
    values: Values = {
        "density": _density(work, read), "weights": read.weights, "lam": read.lam,
    }  # fmt: skip
    return work.done("dare", values)


def _dare_ties(work: Work, read: _Read) -> Translation:
    _demand_rescale(work, read, "the density")
    work.differences.append("a zero sum elects nobody; mergekit elects plus")
    values: Values = {"density": _density(work, read), "lam": _mean_scale(work, read)}
    return work.done("dare_ties", values)


def _della(work: Work, read: _Read) -> Translation:
    _demand_rescale(work, read, "their own keep probabilities")
    work.differences.append("a zero sum elects nobody; mergekit elects plus")
    epsilon: Setting | float = work.alike(read.epsilons or [], "epsilon")
    if _is_dense(read):
        epsilon = 0.0
    values: Values = {
        "density": _density(work, read),
        "epsilon": epsilon,
        "lam": _mean_scale(work, read),
    }
    return work.done("della", values)


def _breadcrumbs(work: Work, read: _Read) -> Translation:
    _refuse_normalize(work, read)
    if read.rescale:
        work.lacking("parameters.rescale", "masked task vectors are not rescaled")
    gamma: Setting | float = work.alike(read.gammas or [], "gamma")
    if _is_dense(read):
        gamma = 0.0
    else:
        work.differences.append(
            "left out and kept are rounded shares of the elements, never a zero; mergekit rounds "
            "both down, and lessens gamma where the density leaves no room"
        )
    values: Values = {
        "density": _density(work, read), "gamma": gamma, "lam": _scale(work, read),
    }  # fmt: skip
    return work.done("breadcrumbs", values)


WEIGHTED: dict[str, Callable[[Work], Translation]] = {
    "task_arithmetic": _Weighted("none", False, False, False, _task_arithmetic),
    "ties": _Weighted("magnitude", True, True, False, _ties),
    "dare_linear": _Weighted("random", False, False, True, _dare),
    "dare_ties": _Weighted("random", True, False, True, _dare_ties),
    "breadcrumbs": _Weighted("outliers", False, False, False, _breadcrumbs),
    "breadcrumbs_ties": _Weighted("outliers", True, False, False, None),
    "della": _Weighted("rank", True, True, True, _della),
    "della_linear": _Weighted("rank", False, False, True, None),
}
"""mergekit's methods by their names."""
