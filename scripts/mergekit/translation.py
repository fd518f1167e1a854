"""mergekit's methods in terms of this project's: values, differences, what has no counterpart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.mergekit.parameters import RecipeParameters, Setting, always
from scripts.mergekit.recipe import ModelName, Recipe

AS_MERGEKIT = "--as-mergekit has it"

Values = Mapping[str, "Setting | Sequence[Setting] | bool | int | float | str | None"]
"""By parameter of the method: settings may differ by tensor, the others do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A recipe as a method of this project."""

    method: str
    """Stem of its file in ``conf/method``."""
    pivot: ModelName
    sources: tuple[ModelName, ...]
    values: Values
    differences: tuple[str, ...]
    """Where the method's definition differs from mergekit's, one line each."""


@dataclass(slots=True, kw_only=True)
class _Work:
    """A translation in the making."""

    recipe: Recipe
    parameters: RecipeParameters
    as_mergekit: bool
    models: tuple[ModelName, ...]
    """All inputs, in order."""
    base: ModelName | None
    problems: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def others(self) -> tuple[ModelName, ...]:
        """The inputs but the base."""
        return tuple(model for model in self.models if model != self.base)

    def done(
        self, method: str, values: Values, sources: Sequence[ModelName] | None = None
    ) -> Translation:
        return Translation(
            method=method,
            pivot=self.base or self.models[0],
            sources=self.others if sources is None else tuple(sources),
            values=values,
            differences=tuple(self.differences),
        )

    def lacking(self, path: str, text: str, *, there: bool = True) -> None:
        """Note what this project's method cannot do; mergekit's reading may."""
        self.problems.append(f"{path}: {text}" + (f"; {AS_MERGEKIT}" if there else ""))

    def alike(self, settings: Sequence[Setting], name: str) -> Setting:
        """Return the setting that all sources share."""
        if any(setting != settings[0] for setting in settings):
            self.lacking(
                f"models.*.parameters.{name}",
                f"must be the same for all models, the method here has no {name} per source",
            )
        return settings[0]


def translate(
    recipe: Recipe, *, as_mergekit: bool
) -> tuple[Translation | None, list[str], list[str]]:
    """Translate a recipe.

    Args:
        recipe: As read.
        as_mergekit: Take mergekit's definition where this project has it as a method of its own.

    Returns:
        The translation, None if something cannot be expressed; what that is, one line each; and
        notes on what mergekit ignores.
    """
    known = _METHODS | _BY_SLICE
    if recipe.method not in known:
        return (
            None,
            [f"merge_method: {recipe.method} is none of {', '.join(sorted(known))}"],
            [],
        )
    parameters = RecipeParameters(recipe)
    work = _Work(
        recipe=recipe,
        parameters=parameters,
        as_mergekit=as_mergekit,
        models=tuple(dict.fromkeys(i.model for one in recipe.slices for i in one.inputs)),
        base=recipe.base,
    )
    if recipe.method in _METHODS:
        _check_slices(work)
    translation = known[recipe.method](work)
    _check_tokenizer(work, translation.pivot)
    notes = parameters.unused()
    problems = [*work.problems, *parameters.problems]
    return (None if problems else translation), problems, notes


def _check_slices(work: _Work) -> None:
    """Demand the same models in all slices."""
    first, *others = work.recipe.slices
    for one in others:
        if {i.model for i in one.inputs} != {i.model for i in first.inputs}:
            work.lacking(
                f"{one.path}.sources", "must be the models of the first slice", there=False
            )


def _check_tokenizer(work: _Work, pivot: ModelName) -> None:
    tokenizer = work.recipe.tokenizer
    if tokenizer is not None and tokenizer != pivot:
        work.lacking(
            "tokenizer_source", f"must be the model merged into, {pivot.label}", there=False
        )


def _linear(work: _Work) -> Translation:
    weights = work.parameters.each(work.models, "weight")
    if work.parameters.switch("normalize", True):
        return work.done("average", {"weights": weights}, work.models)
    return _sum_of_weights(
        work, weights, "parameters.normalize", "weights are divided by their sum"
    )


def _sum_of_weights(
    work: _Work, weights: Sequence[Setting], path: str, text: str
) -> Translation:
    """Add up the models themselves; only mergekit's reading can."""
    if not work.as_mergekit:
        work.lacking(path, text)
    values = _arithmetic(trim="none", elect=False, normalize=False, rescale=False)
    values |= {"origin": "zero", "weights": weights, "lam": 1.0}
    return work.done("mergekit_arithmetic", values, work.models)


def _slerp(work: _Work) -> Translation:
    if len(work.models) != 2:
        work.lacking("models", f"slerp merges two models, got {len(work.models)}", there=False)
    if work.base is None or work.base not in work.models:
        work.lacking("base_model", "must be one of the two models", there=False)
    return work.done("slerp", {"t": work.parameters.shared("t")})


def _multislerp(work: _Work) -> Translation:
    weights = work.parameters.each(work.others, "weight")
    if not work.parameters.switch("normalize_weights", True):
        work.lacking("parameters.normalize_weights", "weights are normalised here", there=False)
    work.parameters.number("eps", 1e-8)
    values: Values = {
        "weights": weights,
        "origin": "zero" if work.base is None else "pivot",
    }
    return work.done("multislerp", values)


def _karcher(work: _Work) -> Translation:
    values: Values = {
        "weights": None,
        "origin": "zero",
        "tolerance": work.parameters.number("tol", 1e-5),
        "max_iterations": work.parameters.whole("max_iter", 10),
    }
    return work.done("karcher", values, work.models)


def _model_stock(work: _Work) -> Translation:
    if work.parameters.switch("filter_wise", False):
        work.lacking("parameters.filter_wise", "angles are of whole tensors here", there=False)
    _demand_base(work)
    return work.done("model_stock", {})


def _sce(work: _Work) -> Translation:
    work.parameters.switch("int8_mask", False)
    _demand_base(work)
    tau = work.parameters.shared("select_topk", 1.0)
    if work.as_mergekit:
        return work.done("mergekit_sce", {"tau": tau, "lam": 1.0})
    work.differences += [
        "selected is round(tau n) of all elements; mergekit takes the share of those that vary",
        "weights follow the energies however small; mergekit weighs all alike where their means "
        "sum to less than 1e-6",
        "a zero sum elects nobody; mergekit elects plus",
    ]
    values: Values = {"tau": tau, "lam": 1.0, "renormalize": True, "select": "deltas"}
    return work.done("sce", values)


def _demand_base(work: _Work) -> None:
    if work.base is None:
        work.lacking("base_model", f"{work.recipe.method} needs one", there=False)


def _arithmetic(**steps: Any) -> dict[str, Any]:  # noqa: ANN401
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
    own: "Callable[[_Work, _Read], Translation] | None"
    """In this project's definition; None where there is none."""

    def __call__(self, work: _Work) -> Translation:
        _demand_base(work)
        read = self._read(work)
        if work.as_mergekit:
            return self._as_mergekit(work, read)
        if self.own is None:
            work.lacking("merge_method", f"{work.recipe.method} has no method here")
            return work.done("mergekit_arithmetic", {})
        return self.own(work, read)

    def _read(self, work: _Work) -> "_Read":
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

    def _as_mergekit(self, work: _Work, read: "_Read") -> Translation:
        values = _arithmetic(
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


def _density(work: _Work, read: _Read) -> Setting:
    assert read.densities is not None, "the method trims"
    return work.alike(read.densities, "density")


def _scale(work: _Work, read: _Read) -> Setting:
    """Return lambda times the weight that all sources share."""
    weight = work.alike(read.weights, "weight")
    lam, factor = read.lam.constant, weight.constant
    if isinstance(lam, int | float):
        return weight.times(lam)
    if isinstance(factor, int | float):
        return read.lam.times(factor)
    work.lacking("parameters.lambda", "and weight cannot both differ by tensor")
    return read.lam


def _mean_scale(work: _Work, read: _Read) -> Setting:
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


def _refuse_normalize(work: _Work, read: _Read) -> None:
    if read.normalize:
        work.lacking("parameters.normalize", "task vectors are not divided by their weights")


def _task_arithmetic(work: _Work, read: _Read) -> Translation:
    _refuse_normalize(work, read)
    return work.done("task_arithmetic", {"weights": read.weights, "lam": read.lam})


def _ties(work: _Work, read: _Read) -> Translation:
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


def _demand_rescale(work: _Work, read: _Read, factor: str) -> None:
    if _is_dense(read):
        return
    if not read.rescale:
        work.lacking("parameters.rescale", "survivors are always rescaled")
    work.differences += [
        f"survivors are divided by {factor}; mergekit restores the L1 norm of each tensor",
        "what is dropped is drawn from other random numbers",
    ]


def _dare(work: _Work, read: _Read) -> Translation:
    _refuse_normalize(work, read)
    _demand_rescale(work, read, "the density")
    values: Values = {
        "density": _density(work, read), "weights": read.weights, "lam": read.lam,
    }  # fmt: skip
    return work.done("dare", values)


def _dare_ties(work: _Work, read: _Read) -> Translation:
    _demand_rescale(work, read, "the density")
    work.differences.append("a zero sum elects nobody; mergekit elects plus")
    values: Values = {"density": _density(work, read), "lam": _mean_scale(work, read)}
    return work.done("dare_ties", values)


def _della(work: _Work, read: _Read) -> Translation:
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


def _breadcrumbs(work: _Work, read: _Read) -> Translation:
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


def _passthrough(work: _Work) -> Translation:
    """Take layers, each from one model, in their places."""
    for one in work.recipe.slices:
        if len(one.inputs) != 1:
            work.lacking(f"{one.path}.sources", "passthrough takes one model", there=False)
    slices, models = work.recipe.slices, work.models
    owners = [one.inputs[0].model for one in slices]
    own = work.parameters.each(models, "scale", 1.0)
    off = always(0.0).by_slice[0]
    scales = [
        Setting(
            tuple(
                scale.by_slice[i] if owner == model else off for i, owner in enumerate(owners)
            )
        )
        for model, scale in zip(models, own, strict=True)
    ]
    if all(setting.constant == 1 for setting in own):
        return work.done("average", {"weights": scales}, models)
    return _sum_of_weights(work, scales, "parameters.scale", "tensors are not scaled")


_METHODS: dict[str, Callable[[_Work], Translation]] = {
    "linear": _linear,
    "slerp": _slerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "model_stock": _model_stock,
    "sce": _sce,
    "task_arithmetic": _Weighted("none", False, False, False, _task_arithmetic),
    "ties": _Weighted("magnitude", True, True, False, _ties),
    "dare_linear": _Weighted("random", False, False, True, _dare),
    "dare_ties": _Weighted("random", True, False, True, _dare_ties),
    "breadcrumbs": _Weighted("outliers", False, False, False, _breadcrumbs),
    "breadcrumbs_ties": _Weighted("outliers", True, False, False, None),
    "della": _Weighted("rank", True, True, True, _della),
    "della_linear": _Weighted("rank", False, False, True, None),
}
_BY_SLICE: dict[str, Callable[[_Work], Translation]] = {"passthrough": _passthrough}
"""Methods whose slices need not have the same models."""
