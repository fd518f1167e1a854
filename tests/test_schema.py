from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from eval.schema import LISTED_BY, build, to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    value: float
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str
    pair: tuple[Leaf, ...]
    only: Leaf | None
    labels: Mapping[str, str]
    free: Mapping[str, Any]
    named: Mapping[str, Leaf] = field(metadata={LISTED_BY: "key"})


@dataclass(frozen=True, kw_only=True)
class Open:
    name: str
    more: Mapping[str, Any]


TREE = {
    "name": "oak", "pair": [{"value": 1}, {"value": 0.5, "note": "n"}], "only": None,
    "labels": {"a": "b"}, "free": {"x": [1, {"y": None}]},
    "named": [{"key": "z", "value": 2.0}, {"key": "a", "value": 3.0}],
}  # fmt: skip


def test_nested_dataclasses_are_built_with_number_types_kept():
    tree = build(Tree, TREE)
    assert tree.pair == (Leaf(value=1), Leaf(value=0.5, note="n"))
    assert type(tree.pair[0].value) is int
    assert (tree.only, tree.free) == (None, {"x": [1, {"y": None}]})
    assert list(tree.named) == ["z", "a"]
    assert build(Tree, TREE | {"only": {"value": 7}}).only == Leaf(value=7)


def test_to_json_inverts_build_with_defaults():
    assert to_json(build(Tree, TREE)) == TREE | {
        "pair": [{"value": 1, "note": None}, {"value": 0.5, "note": "n"}],
        "named": [
            {"key": "z", "value": 2.0, "note": None},
            {"key": "a", "value": 3.0, "note": None},
        ],
    }


def test_unknown_keys_go_into_more():
    opened = build(Open, {"name": "x", "more": 1, "limit": 2})
    assert opened == Open(name="x", more={"more": 1, "limit": 2})
    assert to_json(opened) == {"name": "x", "more": 1, "limit": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "^name must be a text, got 3"),
        ({"pair": {}}, r"^pair must be a list, got \{\}"),
        ({"pair": [{"value": True}]}, "^pair.0.value must be a number, got True"),
        ({"pair": [{}]}, r"^pair.0: unknown keys \[\], missing keys \['value'\]"),
        ({"only": 7}, "^only must be an object or null, got 7"),
        ({"only": {"value": 1, "note": 2}}, "^only.note must be a text or null, got 2"),
        ({"labels": {"a": 1}}, "^labels.a must be a text, got 1"),
        ({"free": []}, r"^free must be an object, got \[\]"),
        ({"named": {}}, r"^named must be a list, got \{\}"),
        ({"named": [{"value": 1}]}, "^named.0.key must be a text, got None"),
        ({"named": TREE["named"][:1] * 2}, "^named .* 'z' is there twice"),
        ({"colour": 1}, r"^unknown keys \['colour'\], missing keys \[\]"),
    ],
)
def test_wrong_type_is_named_by_its_path(change, message):
    with pytest.raises(ValueError, match=message):
        build(Tree, TREE | change)
