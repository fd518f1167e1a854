"""List the merge methods: ``python -m scripts.methods [NAME ...] [--json]``.

Everything is read where it is defined: defaults and remarks in ``conf/method``, papers in the
docstring of the method's module, ranges from the method's own check.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eval.override_errors import choices_of, unknown_choice
from seme.binding import bind_method, hyper_parameter_names
from seme.interface import Check, Traits, traits_of
from seme_bench.folders import CONF

_USAGE = "usage: python -m scripts.methods [NAME ...] [--json]"
_LINK = re.compile(r"https?://[^\s,;)]+")
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A hyper-parameter of a method."""

    name: str
    """Dotted where it is in a mapping, as on the command line without ``method.``."""
    default: Any
    """As in the method's file: ``${tau}`` is the command line's ``tau``."""
    allowed: str | None
    """What its check demands; None where that says nothing of one parameter alone."""
    text: str | None
    """What the method's docstrings say of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A merge method as its file, its module and its declarations describe it."""

    name: str
    title: str
    """First line of its module."""
    remark: str
    """Comment at the head of its file."""
    function: str
    references: tuple[str, ...]
    """Links in its module's docstring: papers, then code."""
    min_sources: int
    max_sources: int | None
    order_matters: bool
    parameters: tuple[Parameter, ...]


def main(arguments: list[str]) -> int:
    """Print the methods as a table, or as JSON.

    Args:
        arguments: Names of methods, none for all; ``--json``.

    Returns:
        0; 2 if an argument is no method.
    """
    known = choices_of("method", [CONF])
    names = [argument for argument in arguments if argument != "--json"]
    for name in names:
        if name.startswith("-"):
            print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
            return 2
        if name not in known:
            print(f"error: {unknown_choice('method', name, known)}", file=sys.stderr)
            return 2
    methods = [read_method(CONF / "method" / f"{name}.yaml") for name in names or known]
    if "--json" in arguments:
        print(json.dumps([asdict(method) for method in methods], indent=1, ensure_ascii=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(_table(methods), markup=False, highlight=False)
    return 0


def read_method(path: Path) -> Method:
    """Describe the method of a configuration file.

    Raises:
        ValueError: If its function does not exist or cannot be imported.
    """
    text = path.read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    head = [line[2:] for line in text.split("_target_")[0].splitlines()]
    method = bind_method(config)
    traits = traits_of(method)
    page = inspect.getdoc(inspect.getmodule(method.func)) or ""
    texts = _texts_of((method.func, traits.preparation, traits.check))
    defaults = {key: config.get(key) for key in sorted(hyper_parameter_names(method))}
    return Method(
        name=path.stem,
        title=page.split("\n\n")[0].replace("\n", " "),
        remark=" ".join(head),
        function=str(config["_target_"]),
        references=tuple(dict.fromkeys(link.rstrip(".:") for link in _LINK.findall(page))),
        min_sources=traits.min_sources,
        max_sources=traits.max_sources,
        order_matters=traits.order_matters,
        parameters=tuple(_parameters(defaults, traits, texts)),
    )


def _parameters(
    defaults: Mapping[str, Any], traits: Traits, texts: Mapping[str, str]
) -> Iterator[Parameter]:
    for key, default in defaults.items():
        entries = default if isinstance(default, dict) else {None: default}
        for inner, value in entries.items():
            replaced = object() if inner is None else {**entries, inner: object()}
            allowed = None
            if traits.check is not None:
                allowed = _allowed(traits.check, {**defaults, key: replaced}, inner or key)
            name = key if inner is None else f"{key}.{inner}"
            yield Parameter(
                name=name, default=value, allowed=allowed, text=texts.get(inner or key)
            )


def _allowed(check: Check, values: Mapping[str, Any], name: str) -> str | None:
    """Ask a check what it demands of a parameter: the text of its error for a wrong value."""
    filled = {key: 0.5 if value == "${tau}" else value for key, value in values.items()}
    filled["n_sources"] = 2
    named = inspect.signature(check).parameters
    try:
        check(**{key: filled[key] for key in named})
    except ValueError as error:
        match = re.match(
            rf"(?:\w+\.)?{name}\S* (?:must be|must) (.*?),? got ", str(error), re.DOTALL
        )
        return None if match is None else match[1].strip().rstrip(",")
    except TypeError:
        return None
    return None


def _texts_of(functions: tuple[Callable[..., Any] | None, ...]) -> dict[str, str]:
    """What docstrings say of parameters; the first that names one counts."""
    texts: dict[str, str] = {}
    for function in functions:
        page = inspect.getdoc(function) if function is not None else None
        for name, text in _ARGUMENT.findall(page or ""):
            texts.setdefault(name, " ".join(text.split()))
    return texts


def _table(methods: list[Method]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("method", "parameter", "default", "allowed", "reference"):
        table.add_column(column, overflow="fold")
    for method in methods:
        rows = [
            (p.name, "null" if p.default is None else str(p.default), p.allowed or "")
            for p in method.parameters
        ]
        links = method.references
        for i in range(max(len(rows), len(links), 1)):
            cells = rows[i] if i < len(rows) else ("", "", "")
            link = links[i].partition("://")[2] if i < len(links) else ""
            table.add_row(method.name if i == 0 else "", *cells, link)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
