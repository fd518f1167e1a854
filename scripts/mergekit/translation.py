"""mergekit's methods in terms of this project's: values, differences, what has no counterpart."""

from collections.abc import Callable, Sequence

from scripts.mergekit.parameters import RecipeParameters, Setting, always
from scripts.mergekit.recipe import ModelName, Recipe
from scripts.mergekit.weighted import WEIGHTED, arithmetic_values
from scripts.mergekit.work import Translation, Values, Work
from seme.checkpoint.regular_file import brief


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
            [f"merge_method: {brief(recipe.method)} is none of {', '.join(sorted(known))}"],
            [],
        )
    parameters = RecipeParameters(recipe)
    work = Work(
        recipe=recipe,
        parameters=parameters,
        as_mergekit=as_mergekit,
        models=tuple(dict.fromkeys(i.model for one in recipe.slices for i in one.inputs)),
        base=recipe.base,
    )
    if recipe.method in _METHODS and not work.others:
        return None, ["models: the base_model alone is named, expected a model to merge"], []
    if recipe.method in _METHODS:
        _check_slices(work)
    translation = known[recipe.method](work)
    _check_tokenizer(work, translation.pivot)
    notes = parameters.unused()
    problems = [*work.problems, *parameters.problems]
    return (None if problems else translation), problems, notes


def _check_slices(work: Work) -> None:
    """Demand the same models in all slices."""
    first, *others = work.recipe.slices
    for one in others:
        if {i.model for i in one.inputs} != {i.model for i in first.inputs}:
            work.lacking(
                f"{one.path}.sources", "must be the models of the first slice", there=False
            )


def _check_tokenizer(work: Work, pivot: ModelName) -> None:
    tokenizer = work.recipe.tokenizer
    if tokenizer is not None and tokenizer != pivot:
        work.lacking(
            "tokenizer_source", f"must be the model merged into, {pivot.label}", there=False
        )


def _linear(work: Work) -> Translation:
    weights = work.parameters.each(work.models, "weight")
    if work.parameters.switch("normalize", True):
        return work.done("average", {"weights": weights}, work.models)
    return _sum_of_weights(
        work, weights, "parameters.normalize", "weights are divided by their sum"
    )


def _sum_of_weights(
    work: Work, weights: Sequence[Setting], path: str, text: str
) -> Translation:
    """Add up the models themselves; only mergekit's reading can."""
    if not work.as_mergekit:
        work.lacking(path, text)
    values = arithmetic_values(trim="none", elect=False, normalize=False, rescale=False)
    values |= {"origin": "zero", "weights": weights, "lam": 1.0}
    return work.done("mergekit_arithmetic", values, work.models)


def _slerp(work: Work) -> Translation:
    if len(work.models) != 2:
        work.lacking("models", f"slerp merges two models, got {len(work.models)}", there=False)
    if work.base is None or work.base not in work.models:
        work.lacking("base_model", "must be one of the two models", there=False)
    return work.done("slerp", {"t": work.parameters.shared("t")})


def _multislerp(work: Work) -> Translation:
    weights = work.parameters.each(work.others, "weight")
    if not work.parameters.switch("normalize_weights", True):
        work.lacking("parameters.normalize_weights", "weights are normalised here", there=False)
    work.parameters.number("eps", 1e-8)
    values: Values = {
        "weights": weights,
        "origin": "zero" if work.base is None else "pivot",
    }
    return work.done("multislerp", values)


def _karcher(work: Work) -> Translation:
    values: Values = {
        "weights": None,
        "origin": "zero",
        "tolerance": work.parameters.number("tol", 1e-5),
        "max_iterations": work.parameters.whole("max_iter", 10),
    }
    return work.done("karcher", values, work.models)


def _model_stock(work: Work) -> Translation:
    if work.parameters.switch("filter_wise", False):
        work.lacking("parameters.filter_wise", "angles are of whole tensors here", there=False)
    work.demand_base()
    return work.done("model_stock", {})


def _sce(work: Work) -> Translation:
    work.parameters.switch("int8_mask", False)
    work.demand_base()
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


def _passthrough(work: Work) -> Translation:
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


_METHODS: dict[str, Callable[[Work], Translation]] = {
    **WEIGHTED,
    "linear": _linear,
    "slerp": _slerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "model_stock": _model_stock,
    "sce": _sce,
}
_BY_SLICE: dict[str, Callable[[Work], Translation]] = {"passthrough": _passthrough}
"""Methods whose slices need not have the same models."""
