"""Packages, metrics and data that a task's code needs, read from its source, which is not run."""

import ast
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub

from eval.task_manager import TaskManager, task_yaml

METRICS = "metrics"
"""Folder of a mirror with metrics of ``evaluate``, and the first part of such an extra."""
NLTK = "nltk_data"
"""Folder of a mirror with data of ``nltk``, and the first part of such an extra."""
_SPACY = "spacy"
"""First part of an extra that is a model of ``spacy``, a package."""
_TINY = "tinyBenchmarks.pkl"
"""Parameters that the package tinyBenchmarks reads from the current folder, or downloads there."""
_TINY_PLACE = (
    "https://raw.githubusercontent.com/felipemaiapolo/tinyBenchmarks/main/tinyBenchmarks"
)
_KINDS = ("tokenizers", "corpora", "taggers", "models", "stemmers", "chunkers", "misc")
"""Folders of ``nltk``'s data; the name of a download does not say in which one it is."""

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
    """List the packages, metrics and data that a task's code needs and that are absent.

    Reads the Python files that the task's YAML names with ``!function``, and the files of
    lm-eval that these import. Counts imports, ``evaluate.load``, ``nltk.download`` and
    ``spacy.load`` that run when a file is imported or a named function is called, also in
    functions of the file that these call, but no import whose failure the code catches without
    raising.

    Args:
        manager: lm-eval's index of tasks.
        task: Name of a task, not of a group.
        datasets_dir: Mirror whose ``metrics/NAME/NAME.py`` are metrics of ``evaluate``, and
            whose ``nltk_data`` has data of ``nltk``.

    Returns:
        Requirements for pip (``langdetect``, ``antlr4-python3-runtime==4.11``),
        ``metrics/NAME`` for metrics of ``evaluate``, ``nltk_data/NAME``, ``spacy/NAME`` and
        ``tinyBenchmarks.pkl``; sorted.

    Raises:
        ValueError: If there is no such task.
    """
    config = task_yaml(manager, task)
    modules: set[str] = set()
    listed = [] if config.get("process_results") else config.get("metric_list") or []
    metrics = {str(entry["metric"]) for entry in listed if entry.get("hf_evaluate")}
    downloads: set[str] = set()
    models: set[str] = set()
    for node in _running_code(_functions_by_file(config)):
        modules |= _imported(node)
        metrics |= _argument(node, ("evaluate", "hf_evaluate"), "load")
        downloads |= _argument(node, ("nltk",), "download")
        models |= _argument(node, ("spacy",), "load")
    tops = {module.partition(".")[0] for module in modules}
    missing = {_PIP_NAMES.get(top, top) for top in tops if find_spec(top) is None}
    if "sympy.parsing.latex" in modules and not _antlr_fits():
        missing = (missing - {"antlr4"}) | {f"{_ANTLR}=={_ANTLR_VERSION}"}
    absent = {f"{METRICS}/{name}" for name in metrics if not _has_metric(name, datasets_dir)}
    absent |= {f"{NLTK}/{name}" for name in downloads if not _has_download(name, datasets_dir)}
    absent |= {_TINY} if "tinyBenchmarks" in tops and not Path(_TINY).is_file() else set()
    absent |= {f"{_SPACY}/{name}" for name in models if find_spec(name) is None}
    return sorted(missing | absent)


def is_data(extra: str) -> bool:
    """True for a metric or for data of nltk, which are in a mirror; False for packages."""
    return extra.startswith((f"{METRICS}/", f"{NLTK}/"))


def how_to_get(extras: Iterable[str], datasets_dir: Path | None) -> list[str]:
    """Return a line for each way to get missing extras, most of them shell commands."""
    parameters = _TINY in (extras := sorted(extras))
    extras = [extra for extra in extras if extra != _TINY]
    metrics, downloads, models = (
        [e.partition("/")[2] for e in extras if e.startswith(f"{kind}/")]
        for kind in (METRICS, NLTK, _SPACY)
    )
    packages = [e for e in extras if not is_data(e) and not e.startswith(f"{_SPACY}/")]
    lines = [shlex.join(["pip", "install", *packages])] if packages else []
    if any(package.startswith(_ANTLR) for package in packages):
        lines[0] += "  # in another environment: Hydra pins antlr4-python3-runtime 4.9.3"
    mirror = Path("DATASETS_DIR") if datasets_dir is None else datasets_dir
    for name in metrics:
        words = ["hf", "download", f"evaluate-metric/{name}", "--repo-type", "space"]
        lines.append(shlex.join([*words, "--local-dir", str(mirror / METRICS / name)]))
    if downloads:
        words = ["python", "-m", "nltk.downloader", "-d", str(mirror / NLTK), *downloads]
        lines.append(f"{shlex.join(words)}  # or into a folder that NLTK_DATA names")
    lines += [shlex.join(["python", "-m", "spacy", "download", name]) for name in models]
    if parameters:
        lines.append(f"curl -LO {_TINY_PLACE}/{_TINY}  # a pickle, which may run code")
    return lines


@contextmanager
def local_extras(datasets_dir: Path | None) -> Iterator[None]:
    """Let tasks read metrics and data of nltk from a mirror, for the block.

    ``evaluate.load("code_eval")`` reads ``datasets_dir/metrics/code_eval`` where it is there, and
    ``nltk`` looks in ``datasets_dir/nltk_data`` last. Tasks load them when they are built, or
    when their metrics are computed.
    """
    metrics = None if datasets_dir is None else datasets_dir / METRICS
    if metrics is None or not metrics.is_dir():
        with _nltk_data(datasets_dir):
            yield
        return
    import evaluate  # noqa: PLC0415 (slow to load, and few tasks need it)

    load = evaluate.load

    def load_here(path: str, *arguments: object, **options: object) -> object:
        script = metrics / path / f"{path}.py"
        return load(str(script) if script.is_file() else path, *arguments, **options)

    evaluate.load = load_here
    try:
        with _nltk_data(datasets_dir):
            yield
    finally:
        evaluate.load = load


@contextmanager
def _nltk_data(datasets_dir: Path | None) -> Iterator[None]:
    """Let ``nltk`` look in the mirror too, if it has such a folder."""
    folder = None if datasets_dir is None else datasets_dir / NLTK
    if folder is None or not folder.is_dir():
        yield
        return
    import nltk  # noqa: PLC0415 (slow to load, and few tasks need it)

    before = list(nltk.data.path)
    nltk.data.path.append(str(folder))
    try:
        yield
    finally:
        nltk.data.path[:] = before


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
        for node in _running_or_called(file, functions):
            yield node
            new = [path for path in _imported_files(node, file) if path not in read]
            waiting = dict.fromkeys(new, frozenset[str]()) | waiting


def _running_or_called(file: Path, functions: frozenset[str]) -> list[ast.AST]:
    """List the nodes of a file that run, functions that running code calls included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    while True:
        nodes = list(_running(tree, functions))
        called = {
            node.func.id
            for node in nodes
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if called <= functions:
            return nodes
        functions |= called


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


def _argument(node: ast.AST, modules: tuple[str, ...], function: str) -> set[str]:
    """First argument of ``MODULE.FUNCTION("NAME")``; empty for other nodes."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=module), attr=attribute),
            args=[ast.Constant(value=str(name)), *_],
        ) if module in modules and attribute == function:
            return {name}
    return set()


def _has_metric(name: str, datasets_dir: Path | None) -> bool:
    """True if a metric is in the mirror, or in the cache that ``evaluate`` keeps."""
    cache = Path(huggingface_hub.constants.HF_HOME) / "modules/evaluate_modules/metrics"
    if any((cache / f"evaluate-metric--{name}").glob(f"*/{name}.py")):
        return True
    return datasets_dir is not None and (datasets_dir / METRICS / name / f"{name}.py").is_file()


def _has_download(name: str, datasets_dir: Path | None) -> bool:
    """True if nltk's data are in the mirror, or where nltk looks for them (``NLTK_DATA``)."""
    if find_spec("nltk") is None:
        return True  # the package is what is missing first
    import nltk  # noqa: PLC0415 (slow to load, and few tasks need it)

    folders = [*nltk.data.path, *([] if datasets_dir is None else [str(datasets_dir / NLTK)])]
    for kind in _KINDS:
        try:
            nltk.data.find(f"{kind}/{name}", folders)
        except LookupError:
            continue
        return True
    return False


def _antlr_fits() -> bool:
    try:
        return version(_ANTLR).startswith(_ANTLR_VERSION)
    except PackageNotFoundError:
        return False
