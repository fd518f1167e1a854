"""YAML of unknown origin read as a stream of events: neither recursion nor copies of aliases."""

import math
from collections.abc import Iterator

import yaml

_MOST_LEVELS = 100
"""Most levels of nested values: libyaml composes them by recursion without bound."""
_MOST_NODES = 100_000
"""Nodes of a YAML file with its aliases written out; ours have less than a hundred."""
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def check_growth(text: str) -> None:
    """Refuse a YAML text that is too deep, or that grows without bound by its aliases.

    A text that is no YAML passes: whoever reads it says what is wrong.

    Raises:
        ValueError: If values are nested in more than 100 levels, or there are more than 100,000
            nodes when aliases are written out; does not name the file.
    """
    try:
        size = written_out_size(text)
    except yaml.YAMLError:
        return
    if size > _MOST_NODES:
        raise ValueError(
            f"more than {_MOST_NODES} nodes when aliases (*name) are written out: write the "
            "values that are needed"
        )


def written_out_size(text: str) -> float:
    """Count the nodes of a YAML text with its aliases written out.

    Returns:
        The number; infinity if a node has an alias of itself.

    Raises:
        ValueError: If values are nested in more than 100 levels.
        yaml.YAMLError: If the text is no YAML.
    """
    sizes = dict[str, float]()
    open_nodes: list[tuple[str | None, float]] = [(None, 0)]
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            if event.anchor is not None:
                sizes[event.anchor] = math.inf
            open_nodes.append((event.anchor, 1))
            continue
        if isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, size_so_far = open_nodes[-1]
        open_nodes[-1] = outer, size_so_far + size
    return open_nodes[0][1]


def texts_of_mapping(text: str) -> dict[str, str]:
    """Read those entries of a YAML mapping that are plain texts or numbers, as they are written.

    Returns:
        Their keys and texts; empty if the document is no mapping.

    Raises:
        ValueError: If values are nested in more than 100 levels.
        yaml.YAMLError: If the text is no YAML.
    """
    nodes, level = list[str | None](), 0
    for event in _events(text):
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level == 0 and isinstance(event, yaml.SequenceStartEvent):
            return {}
        if level == 1 and isinstance(event, yaml.NodeEvent):
            nodes.append(event.value if isinstance(event, yaml.ScalarEvent) else None)
        level += isinstance(event, yaml.CollectionStartEvent)
    entries = zip(nodes[::2], nodes[1::2], strict=False)
    return {key: value for key, value in entries if key is not None and value is not None}


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a text, up to 100 levels deep."""
    level = 0
    for event in yaml.parse(text, _Loader):
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > _MOST_LEVELS:
            raise ValueError(f"values are nested in more than {_MOST_LEVELS} levels")
        yield event
