"""A run's configuration as the user wrote it: lengths checked, resolved, its texts."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_KEPT = {
    "method", "models", "suite", "tau", "seed", "dtype", "include", "exclude", "overrides",
}  # fmt: skip
"""Entries that a record keeps, whole or as the locations and names in them."""
_NOT_KEPT = {"include_path"}
"""Entries of a suite that no record keeps."""
_LOOKUP = re.compile(r"\$\{\s*(?:oc\.env|hydra)\s*:")
_REFERENCE = re.compile(r"\$\{[^{}]*\}")
_LONGEST_OVERRIDE = 8_000
"""Characters; a list of so many takes Hydra's parser up to three seconds, of twice as many eight, of
four times as many over a minute (measured): the time grows with the square of its items."""
_WORD = re.compile(r"\w+")


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration to plain values.

    Sums such as 0.1 + 0.2 are rounded before they reach a method.

    Raises:
        ValueError: If an interpolation cannot be resolved, one that a record would keep looks
            into the environment, or a text is no Unicode; names the entry.
    """
    refuse_lookups(OmegaConf.to_container(config, resolve=False))
    if isinstance(config.get("tau"), float):
        config.tau = round(config.tau, 12)
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error.msg).splitlines()[0]
        way_out = f"; set it, {error.full_key}=..."
        if "nterpolation" in reason:
            way_out = r"; a literal ${ is written \${"
        raise ValueError(f"{error.full_key} cannot be resolved: {reason}{way_out}") from error
    resolved = {str(key): value for key, value in values.items()}  # type: ignore[union-attr]
    for path, text in _texts(resolved):
        _check_text(path, text)
    return resolved


def refuse_lookups(config: Any) -> None:  # noqa: ANN401 (plain values, not resolved)
    """Refuse lookups of the environment in what a record keeps, also by way of other entries.

    Args:
        config: The configuration in plain values, its interpolations as they were written.

    Raises:
        ValueError: If there is one; names the entry and what to do.
    """
    looking = {
        str(key)
        for key, entry in config.items()
        if any(_LOOKUP.search(text) for _, text in _texts(entry))
    }
    for path, text in _texts(config):
        keys = path.split(".")
        if keys[0] not in _KEPT or keys[-1] in _NOT_KEPT:
            continue
        named = {word for part in _REFERENCE.findall(text) for word in _WORD.findall(part)}
        if _LOOKUP.search(text) or named & looking - _KEPT:
            raise ValueError(
                f"{path} must not look into the environment, got {text:.100}: records and "
                "pages would show what it finds there; write the value, or let the shell fill "
                f'it in ("{path}=$NAME" on the command line)'
            )


def check_name(entry: str, name: object) -> None:
    """Check a name that records, tables and pages show.

    Args:
        entry: Where the name stands in the configuration.
        name: Its value.

    Raises:
        ValueError: If it is no text of one line, or has more than 200 characters.
    """
    if not isinstance(name, str):
        raise ValueError(f'{entry} must be a text, got {name!r:.60}: write "{name!s:.60}"')
    if not name.isprintable() or not 0 < len(name) <= 200:
        raise ValueError(
            f"{entry} must be one line of 1 to 200 printable characters, got {name!a:.100}"
        )


def check_lengths(words: Iterable[str]) -> None:
    """Refuse an override that Hydra would take long to parse.

    Args:
        words: The command line, without the program.

    Raises:
        ValueError: If one has more than 8,000 characters; names its key and what to do.
    """
    for word in words:
        if len(word) > _LONGEST_OVERRIDE:
            key = ascii(word.partition("=")[0])[1:-1]
            raise ValueError(
                f"{key:.100}: an override may have {_LONGEST_OVERRIDE:,} characters, got "
                f"{len(word):,}, which take long to parse: write the value to a file "
                "conf/variant/NAME.yaml, or FOLDER/variant/NAME.yaml with --config-dir=FOLDER, its "
                "first line '# @package _global_', and run with variant=NAME"
            )


def _texts(value: Any, path: str = "") -> Iterable[tuple[str, str]]:  # noqa: ANN401
    """Yield every text of nested plain values, keys among them, with its dotted path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            inner = f"{path}.{key}" if path else str(key)
            if isinstance(key, str):
                yield inner, key
            yield from _texts(entry, inner)
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _texts(entry, f"{path}.{i}")


def _check_text(path: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{ascii(path)[1:-1]:.100} must be text in Unicode, got half a character in {text!a:.100}"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{ascii(path)[1:-1]:.100} must not hold a zero byte, got {text!a:.100}"
        )
