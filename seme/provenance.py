"""Provenance of a number: code version of the method, libraries, machine, git state."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SHARED, _METHODS = "seme", "baselines"
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
        16 hexadecimal digits over the module that defines the method and the modules that it
        imports, transitively: all but ``seme`` and installed libraries. What is imported by a
        name made at run time, and data files, do not count.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    """Code of one module, parsed: own imports apart from the rest."""

    imports: tuple[tuple[str, str, str | None], ...]
    """Names imported from own modules: origin, name, alias."""
    imported: tuple[str, ...]
    """Names of all that it imports, modules and their members."""
    defined: frozenset[str]
    """Names that it defines at top level."""
    skeleton: object
    """Its syntax tree without docstrings and own imports, see :func:`_skeleton`."""

    def hash(self, tags: Sequence[object]) -> str:
        """Hash the code; own imports count by name and tag, in any order."""
        names = {
            (name, alias) if tag is None else (name, alias, tag)
            for (_, name, alias), tag in zip(self.imports, tags, strict=True)
        }
        code = repr((sorted(names, key=repr), self.skeleton))
        return hashlib.blake2b(code.encode(), digest_size=16).hexdigest()


def _codes(module: str) -> list[str]:
    """Hashes of the code of a module and of the own modules it imports, transitively."""
    modules: dict[str, _Module] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parsed = None if name in modules else _parsed(name)
        if parsed is not None:
            modules[name] = parsed
            waiting += [m for m in parsed.imported if _is_own(m) and not _is_shared(m)]
    return [parsed.hash(_tags(parsed, modules)) for parsed in modules.values()]


def _tags(module: _Module, modules: Mapping[str, _Module]) -> list[object]:
    """Tag imported names that could come from several modules; None for the others.

    The tag is the code of the module that the name is imported from and its place among the
    imports: an import that is moved to a function of the same name is an edit.
    """
    tags: list[object] = []
    for place, (origin, name, _) in enumerate(module.imports):
        origins = {o for m in modules.values() for o, n, _ in m.imports if n == name}
        origins |= {other for other, m in modules.items() if name in m.defined}
        source = modules.get(origin)
        code = origin if source is None else source.hash([None] * len(source.imports))
        tags.append((code, place) if len(origins) > 1 else None)
    return tags


def _parsed(module: str) -> _Module | None:
    """Read and parse a module; None where the name is no module or has no source."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # a name within a module; or no module at all
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    is_package = spec.submodule_search_locations is not None
    package = module if is_package else module.rpartition(".")[0]
    defined = frozenset(_defined(tree))
    imported = tuple(_imported(tree, package))
    own = [line for line in ast.walk(tree) if _is_own_import(line)]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line) and line not in own]
            node.body = kept  # type: ignore[attr-defined]
    imports = [
        (_origin(line, package), alias.name, alias.asname)
        for line in own
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    ]
    return _Module(
        imports=tuple(imports), imported=imported, defined=defined, skeleton=_skeleton(tree)
    )


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions, classes and variables of a module."""
    for line in tree.body:
        if isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield line.name
        elif isinstance(line, ast.Assign | ast.AnnAssign | ast.AugAssign):
            yield from (n.id for n in ast.walk(line) if isinstance(n, ast.Name))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the names of all that a module imports: modules, packages around them, members."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield name
            yield from (".".join(parts[:n]) for n in range(2, len(parts)))


def _origin(line: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module that a line imports from."""
    origin = "." * line.level + (line.module or "")
    return importlib.util.resolve_name(origin, package) if line.level else origin


def _is_own_import(line: ast.AST) -> bool:
    """Return True if a line imports names from a module that is no library."""
    return isinstance(line, ast.ImportFrom) and (line.level > 0 or _is_own(line.module or ""))


def _is_shared(module: str) -> bool:
    return module.partition(".")[0] == _SHARED


@functools.cache
def _is_own(module: str) -> bool:
    """Return True for modules of this project or of the user, False for installed libraries."""
    top = module.partition(".")[0]
    if top != module:
        return _is_own(top)
    if top in (_SHARED, _METHODS):
        return True
    if top in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    parts = {part for place in places if place for part in Path(place).parts}
    return bool(parts) and not parts & {"site-packages", "dist-packages"}


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
