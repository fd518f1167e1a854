"""Packages and metrics that a task's code needs, read from its source without running it."""

import ast
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, chdir, nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub

from eval.task_manager import TaskManager, task_yaml

METRICS = "metrics"
"""Folder of a mirror with metrics of ``evaluate``, and the first part of such an extra."""

_PIP_NAMES = {
    "sklearn": "scikit-learn",
    "tinyBenchmarks": "git+https://github.com/felipemaiapolo/tinyBenchmarks",
    "yaml": "pyyaml",
}
"""Name in an import to what pip installs, where the two differ."""

_ANTLR, _ANTLR_VERSION = "antlr4-python3-runtime", "4.11"
"""What ``sympy.parsing.latex`` needs; Hydra pins 4.9.3."""


def missing_extras(
    manager: TaskManager, task: str, datasets_dir: Path | None = None
) -> list[str]:
    """List the packages and metrics that a task's code needs and that are absent.

    Reads the Python files that the task's YAML names with ``!function``, and the files of
    lm-eval that these import. Counts imports and ``evaluate.load`` that run when a file is
    imported or a named function is called, but no import whose failure the code catches
    without raising.

    Args:
        manager: lm-eval's index of tasks.
        task: Name of a task, not of a group.
        datasets_dir: Mirror whose ``metrics/NAME/NAME.py`` are metrics of ``evaluate``.

    Returns:
        Requirements for pip (``langdetect``, ``antlr4-python3-runtime==4.11``), and
        ``metrics/NAME`` for metrics of ``evaluate``; sorted.

    Raises:
        ValueError: If there is no such task.
    """
    config = task_yaml(manager, task)
    modules: set[str] = set()
    listed = [] if config.get("process_results") else config.get("metric_list") or []
    metrics = {str(entry["metric"]) for entry in listed if entry.get("hf_evaluate")}
    for node in _running_code(_functions_by_file(config)):
        modules |= _imported(node)
        metrics |= _loaded_metric(node)
    tops = {module.partition(".")[0] for module in modules}
    missing = {_PIP_NAMES.get(top, top) for top in tops if find_spec(top) is None}
    if "sympy.parsing.latex" in modules and not _antlr_fits():
        missing = (missing - {"antlr4"}) | {f"{_ANTLR}=={_ANTLR_VERSION}"}
    absent = {f"{METRICS}/{name}" for name in metrics if not _has_metric(name, datasets_dir)}
    return sorted(missing | absent)


def how_to_get(extras: Iterable[str], datasets_dir: Path | None) -> list[str]:
    """Return a line for each way to get missing extras, most of them shell commands."""
    metrics = [e.partition("/")[2] for e in extras if e.startswith(f"{METRICS}/")]
    packages = sorted(e for e in extras if not e.startswith(f"{METRICS}/"))
    lines = [shlex.join(["pip", "install", *packages])] if packages else []
    if any(package.startswith(_ANTLR) for package in packages):
        lines[0] += "  # in another environment: Hydra pins antlr4-python3-runtime 4.9.3"
    mirror = Path("DATASETS_DIR") if datasets_dir is None else datasets_dir
    for name in metrics:
        words = ["hf", "download", f"evaluate-metric/{name}", "--repo-type", "space"]
        lines.append(shlex.join([*words, "--local-dir", str(mirror / METRICS / name)]))
    return lines


def local_metrics(datasets_dir: Path | None) -> AbstractContextManager[None]:
    """Let ``evaluate.load("code_eval")`` read ``datasets_dir/metrics/code_eval``.

    ``evaluate`` looks for a metric in the current folder before it asks the Hub: within this
    context the current folder is ``datasets_dir/metrics``, if there is one. Tasks load their
    metrics when they are built.
    """
    folder = None if datasets_dir is None else datasets_dir / METRICS
    return chdir(folder) if folder is not None and folder.is_dir() else nullcontext()


def _functions_by_file(config: Mapping[str, Any]) -> dict[Path, frozenset[str]]:
    """Map the Python files a task's YAML names to the functions it names in them."""
    files: dict[Path, frozenset[str]] = {}
    for text in _strings(config):
        place, _, function = text.rpartition(".")
        folder, _, module = place.rpartition("/")
        if not text.startswith("/") or "\n" in text:
            continue
        for file in (Path(f"{folder}/{module.replace('.', '/')}.py"), *_lm_eval_files(module)):
            if file.is_file():
                files[file] = files.get(file, frozenset()) | {function}
    return files


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def _running_code(files: Mapping[Path, frozenset[str]]) -> Iterator[ast.AST]:
    """Yield the nodes that run in files, and in files of lm-eval that these import."""
    waiting, read = dict(files), set[Path]()
    while waiting:
        file, functions = waiting.popitem()
        read.add(file)
        for node in _running(ast.parse(file.read_text(encoding="utf-8")), functions):
            yield node
            new = [path for path in _imported_files(node, file) if path not in read]
            waiting = dict.fromkeys(new, frozenset[str]()) | waiting


def _running(node: ast.AST, functions: frozenset[str]) -> Iterator[ast.AST]:
    """Yield the nodes below a node that run on import or on a call of the functions."""
    skipped: list[ast.AST] = []
    if isinstance(node, ast.Try) and not _raises(node.handlers):
        skipped += node.body
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if child in skipped or is_for_types:
            continue
        if is_function and getattr(child, "name", "") not in functions:
            continue
        yield child
        yield from _running(child, functions)


def _raises(handlers: list[ast.ExceptHandler]) -> bool:
    return any(isinstance(node, ast.Raise) for h in handlers for node in ast.walk(h))


def _imported(node: ast.AST) -> set[str]:
    """Full names of the modules of an import; empty for other nodes and relative imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {str(node.module)}
    return set()


def _imported_files(node: ast.AST, file: Path) -> list[Path]:
    """Files of lm-eval's tasks, or next to a file, that an import in the file reads."""
    if isinstance(node, ast.Import):
        return [path for alias in node.names for path in _lm_eval_files(alias.name)]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level == 0:
        names = (module, *(f"{module}.{alias.name}" for alias in node.names))
        return [path for name in names for path in _lm_eval_files(name)]
    folder = file.parents[node.level - 1] / module.replace(".", "/")
    beside = (folder.with_suffix(".py"), *(folder / f"{a.name}.py" for a in node.names))
    return [path for path in beside if path.is_file()]


def _lm_eval_files(module: str) -> list[Path]:
    """Files of a module of lm-eval's tasks; empty for other modules."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None or not module.startswith("lm_eval.tasks."):
        return []
    path = Path(spec.origin).parents[1] / module.replace(".", "/")
    return [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]


def _loaded_metric(node: ast.AST) -> set[str]:
    """Name of the metric in ``evaluate.load("NAME")``; empty for other nodes."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="evaluate" | "hf_evaluate"), attr="load"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return {name}
    return set()


def _has_metric(name: str, datasets_dir: Path | None) -> bool:
    """True if a metric is in the mirror, or in the cache that ``evaluate`` keeps."""
    cache = Path(huggingface_hub.constants.HF_HOME) / "modules/evaluate_modules/metrics"
    if any((cache / f"evaluate-metric--{name}").glob(f"*/{name}.py")):
        return True
    return datasets_dir is not None and (datasets_dir / METRICS / name / f"{name}.py").is_file()


def _antlr_fits() -> bool:
    try:
        return version(_ANTLR).startswith(_ANTLR_VERSION)
    except PackageNotFoundError:
        return False
