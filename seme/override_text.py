"""Values of a configuration as text of a command line, in Hydra's grammar of overrides."""

import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_~./][\w./~*-]*")
_WORDS = {"null", "true", "false", "inf", "nan", "on", "off", "yes", "no"}


def override_text(value: Any) -> str:  # noqa: ANN401 (plain values)
    """Write a value as Hydra's grammar of overrides reads it back: strings quoted where needed."""
    if isinstance(value, Mapping):
        return (
            "{" + ",".join(f"{key}:{override_text(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(override_text, value)) + "]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
            return value
        return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", value)) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def model_value(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a model's entry as its location where it has nothing else."""
    return entry["location"] if entry.keys() == {"location"} else entry
