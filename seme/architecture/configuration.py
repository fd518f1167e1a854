"""What a model's ``config.json`` says, under the names that architectures give it (ours)."""

from collections.abc import Mapping
from typing import Any


def setting(config: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401  (JSON)
    """Return what a configuration says under the first of these names that it has, not null.

    Raises:
        ValueError: If it has none of them.
    """
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ValueError(
        f"config.json of a {config.get('model_type')} model must say {' or '.join(names)}, got "
        f"only {sorted(config)}"
    )


def count(config: Mapping[str, Any], *names: str) -> int:
    """Return a :func:`setting` that counts something.

    Raises:
        ValueError: If there is none, or it is not an integer of at least 1.
    """
    number = setting(config, *names)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"config.json of a {config.get('model_type')} model must give an integer of at least "
            f"1 for {' or '.join(names)}, got {number!r}"
        )
    return number
