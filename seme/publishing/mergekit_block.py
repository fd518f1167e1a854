"""A merge as a mergekit configuration, where mergekit has the method; how the two differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from seme.publishing.described import pinned
from seme.publishing.manifest import InputModel, Manifest

_DRAWN = "what is dropped is drawn from other random numbers"
_RESTORED = "survivors are divided by their keep probability; mergekit restores the L1 norm"
_ELECTED = "a zero sum elects no sign; mergekit elects plus"
_UNMATCHED = ("exclude", "overrides")
_COMPUTED = "float32"


class _NoCounterpart(Exception):  # noqa: N818 (no error)
    """mergekit cannot be told to do this; the message says why."""


def mergekit_block(
    manifest: Manifest, *, out_dtype: str | None
) -> tuple[str | None, list[str]]:
    """Write a merge as a mergekit configuration (its README, "Merge Configuration").

    Args:
        manifest: The merge.
        out_dtype: Dtype of the merged weights; None leaves it out.

    Returns:
        The YAML, and how mergekit 0.1.5 defines the method otherwise; or None, and why there is
        none.
    """
    try:
        return _block(manifest, out_dtype)
    except _NoCounterpart as reason:
        return None, [str(reason)]


def _block(manifest: Manifest, out_dtype: str | None) -> tuple[str, list[str]]:
    own = manifest.method.config
    build = _METHODS.get(manifest.method.name)
    if build is None or own.get("_target_") != f"baselines.{manifest.method.name}.merge":
        raise _NoCounterpart(f"mergekit has no method {manifest.method.name}")
    for key in _UNMATCHED:
        if manifest.settings.get(key):
            raise _NoCounterpart(f"{key} has no counterpart in a mergekit configuration")
    if manifest.settings["include"] not in ([], ["*"]):
        raise _NoCounterpart("include has no counterpart in a mergekit configuration")
    if any("layers" in model.entry for model in manifest.models):
        raise _NoCounterpart("stacked layers are slices in a mergekit configuration")
    if any("base" in model.entry for model in manifest.models):
        raise _NoCounterpart("sources with a base of their own have no counterpart in mergekit")
    body, differences = build(own, manifest)
    content = {
        "merge_method": body.pop("merge_method"),
        **({"base_model": _reference(manifest.pivot)} if body.pop("has_base", True) else {}),
        **body,
        "dtype": _COMPUTED,
        **({} if out_dtype is None else {"out_dtype": out_dtype}),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True), differences


def _reference(model: InputModel) -> str:
    """Name a model in mergekit's grammar: ``path@revision+adapter@revision``."""
    entry = pinned(model)

    def placed(place: str, revision: object) -> str:
        return place if revision is None else f"{place}@{revision}"

    adapter = entry.get("path_to_adapter")
    base = entry.get("location")
    if adapter is None:
        return placed(str(base), entry.get("revision"))
    if base is None:
        raise _NoCounterpart(f"the base of the adapter {adapter} is not in the configuration")
    own = placed(adapter, entry.get("adapter_revision"))
    return f"{placed(base, entry.get('revision'))}+{own}"


def _models(models: Sequence[InputModel], **parameters: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """List models with parameters; a list of values has one for each."""
    return [
        {"model": _reference(model), "parameters": {
            key: value[i] if isinstance(value, list) else value
            for key, value in parameters.items() if value is not None
        }}
        for i, model in enumerate(models)
    ]  # fmt: skip


def _weights(own: Mapping[str, Any], manifest: Manifest) -> list[float]:
    given = own.get("weights")
    return [1.0] * len(manifest.sources) if given is None else list(given)


_Built = tuple[dict[str, Any], list[str]]


def _linear(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    models = _models(manifest.sources, weight=_weights(own, manifest))
    return {
        "merge_method": "linear", "models": models, "has_base": False,
        "parameters": {"normalize": True},
    }, []  # fmt: skip


def _task_vectors(
    name: str,
    own: Mapping[str, Any],
    manifest: Manifest,
    *,
    normalize: bool,
    **each: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Write a method of weighted task vectors."""
    models = _models(manifest.sources, weight=_weights(own, manifest), **each)
    parameters = {"normalize": normalize, "lambda": own["lam"]}
    return {"merge_method": name, "models": models, "parameters": parameters}


def _task_arithmetic(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    return _task_vectors("task_arithmetic", own, manifest, normalize=False), []


def _ties(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    body = _task_vectors("ties", own, manifest, normalize=True, density=own["density"])
    differences = [_ELECTED, "round(density n) elements are kept, in mergekit int(density n)"]
    if own["scope"] == "model":
        differences.insert(
            0, "task vectors are trimmed over the model; mergekit trims by tensor"
        )
    return body, differences


def _dare(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    body = _task_vectors("dare_linear", own, manifest, normalize=False, density=own["density"])
    return body, [_DRAWN, _RESTORED]


def _dare_ties(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    body = _task_vectors("dare_ties", own, manifest, normalize=True, density=own["density"])
    return body, [_DRAWN, _RESTORED, _ELECTED]


def _della(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    each = {"density": own["density"], "epsilon": own["epsilon"]}
    body = _task_vectors("della", own, manifest, normalize=True, **each)
    return body, [_DRAWN, _RESTORED, _ELECTED]


def _breadcrumbs(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    each = {"density": own["density"], "gamma": own["gamma"]}
    body = _task_vectors("breadcrumbs", own, manifest, normalize=False, **each)
    return body, ["numbers of elements are rounded otherwise"]


def _model_stock(_own: Mapping[str, Any], manifest: Manifest) -> _Built:
    return {"merge_method": "model_stock", "models": _models(manifest.sources)}, []


def _sce(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    if own["lam"] != 1 or own["select"] != "deltas":
        raise _NoCounterpart("mergekit's sce has neither lam nor select=coefficients")
    tau = 1.0 if own["tau"] == "all" else own["tau"]
    differences = [
        "the share is of all elements; mergekit takes that of those that vary",
        _ELECTED,
    ]
    if not own["renormalize"]:
        differences.insert(0, "weights are not renormalised; mergekit does")
    body = {"merge_method": "sce", "models": _models(manifest.sources)}
    return {**body, "parameters": {"select_topk": tau}}, differences


def _slerp(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    body = {"merge_method": "slerp", "models": _models(manifest.models)}
    return {**body, "parameters": {"t": own["t"]}}, []


def _multislerp(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    models = _models(manifest.sources, weight=_weights(own, manifest))
    body = {"merge_method": "multislerp", "models": models}
    return {**body, "has_base": own["origin"] == "pivot"}, []


def _karcher(own: Mapping[str, Any], manifest: Manifest) -> _Built:
    if own["weights"] is not None or own["origin"] != "zero":
        raise _NoCounterpart("mergekit's karcher has neither weights nor an origin")
    parameters = {"tol": own["tolerance"], "max_iter": own["max_iterations"]}
    body = {"merge_method": "karcher", "models": _models(manifest.sources)}
    return {**body, "has_base": False, "parameters": parameters}, []


_METHODS: dict[str, Callable[[Mapping[str, Any], Manifest], _Built]] = {
    "average": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare": _dare,
    "dare_ties": _dare_ties,
    "della": _della,
    "breadcrumbs": _breadcrumbs,
    "model_stock": _model_stock,
    "sce": _sce,
    "slerp": _slerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
}
