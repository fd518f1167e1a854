"""Provenance of a number: code version of the method, libraries, machine, git state."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

_SHARED = "seme"
_LIBRARIES = (
    "torch",
    "transformers",
    "lm_eval",
    "safetensors",
    "numpy",
    "numba",
    "hydra-core",
)
_ROOT = Path(__file__).resolve().parents[1]
NUMBERS_VERSION = 1
"""Version of the numbers computed by code that methods share: engine, kernels, alignment.

Raise it when merged bytes may change; ``tests/test_golden.py`` holds them.
"""


def code_version(method: Callable[..., Any]) -> str:
    """Hash the code of a method's own module, without docstrings, comments and module names.

    An edited method is another method, so its finished runs are never taken for those of the
    new code. What all methods share, everything in ``seme`` but the method's own module, counts
    by :data:`NUMBERS_VERSION`. Files can be renamed and moved without changing the hash.

    Args:
        method: The merge function, or a ``functools.partial`` of it.

    Returns:
        16 hexadecimal digits over the module that defines the method and the modules of
        ``baselines`` and of the method's own package that it imports, transitively; not
        ``seme``.

    Raises:
        ValueError: If the source of the method's module cannot be read.
    """
    function = method.func if isinstance(method, functools.partial) else method
    codes = _codes(function.__module__)
    if not codes:
        raise ValueError(
            f"no source file for the module {function.__module__} of the method: define "
            "methods in importable modules"
        )
    return hashlib.blake2b("\0".join(sorted(codes)).encode(), digest_size=8).hexdigest()


def collect() -> dict[str, Any]:
    """Describe the software and the machine, without names of hosts, users or folders.

    Returns:
        JSON-ready; the version of a library that is not installed is None.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "git": git_state(_ROOT),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cpu_model() -> str:
    """Return the processor's name; its architecture if the system does not give a name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state(root: Path) -> dict[str, Any] | None:
    """Return revision and state of a checkout; results do not make it dirty.

    Args:
        root: The folder that would be the top of the checkout.

    Returns:
        ``revision``, None before the first commit, and ``dirty``; None outside a checkout.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")
    return {"revision": _git(root, "rev-parse", "--verify", "HEAD"), "dirty": changes != ""}


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints; None where it fails or is not installed."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=own,  # inside a hook, GIT_DIR would point to another repository
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _codes(module: str) -> list[str]:
    """Hashes of the code of a module and of the methods' modules it imports, transitively."""
    packages = {"baselines", module.partition(".")[0]} - {_SHARED}
    codes: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        source = None if name in codes else _source(name)
        if source is None:
            continue
        tree = ast.parse(source)
        waiting += [m for m in _imports(tree, name) if m.partition(".")[0] in packages]
        codes[name] = _code_hash(tree, packages | {_SHARED})
    return list(codes.values())


def _code_hash(tree: ast.Module, packages: set[str]) -> str:
    """Hash a module's code without docstrings, and without the modules of its imports.

    What it imports from ``packages`` counts by its names only, in any order.
    """
    lines = [node for node in ast.walk(tree) if _is_import_from(node, packages)]
    imported = {(a.name, a.asname) for line in lines for a in getattr(line, "names", [])}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line) and line not in lines]
            node.body = kept  # type: ignore[attr-defined]
    code = repr((sorted(imported, key=repr), _skeleton(tree)))
    return hashlib.blake2b(code.encode(), digest_size=16).hexdigest()


def _imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the names of all that a module imports, modules and their members."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            package = module.rpartition(".")[0]
            parent = importlib.util.resolve_name(origin, package) if node.level else origin
            yield parent
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def _source(module: str) -> str | None:
    """Return a module's source; None where the name is no module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the parent is a module, not a package: a name within it
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).read_text(encoding="utf-8")


def _is_import_from(line: ast.AST, packages: set[str]) -> bool:
    """Return True if a line imports names from one of the packages or from its own."""
    if not isinstance(line, ast.ImportFrom):
        return False
    return line.level > 0 or (line.module or "").partition(".")[0] in packages


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _skeleton(node: object) -> object:
    """Return a syntax tree as nested tuples.

    Unlike ``ast.dump`` it leaves out empty fields, which come and go between versions of
    Python: the same code has the same hash in all of them.
    """
    if isinstance(node, ast.AST):
        fields = [(key, _skeleton(value)) for key, value in ast.iter_fields(node)]
        return type(node).__name__, tuple(f for f in fields if f[1] not in (None, ()))
    if isinstance(node, list):
        return tuple(_skeleton(item) for item in node)
    return node
