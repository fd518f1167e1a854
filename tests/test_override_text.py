"""Values as text of a command line: what Hydra reads back is what was written."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from seme.override_text import model_value, override_text

VALUES = [
    "plain/path", "~/models/a b", "1", "0123", "null", "True", "a,b", "[x]", "{y: z}", 'say "no"',
    "it's", "back\\slash", 'end\\', 'both\\"', "", " ", "x=y", "é", "org/name@v1", "1e-5", "nan",
    None, True, False, 0, 3, 0.1, 1e-05, -2.5, [1, 0.5], [], {"a": [1, {"b": None}]},
    {"path_to_adapter": "./lo ra", "location": "1"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_is_read_back(value):
    override = OverridesParser.create().parse_override(f"key={override_text(value)}")
    read = override.value()
    assert read == value
    assert type(read) is type(value)


def test_a_model_of_a_location_alone_is_written_as_the_location():
    assert model_value({"location": "org/base"}) == "org/base"
    entry = {"location": "org/base", "revision": "abc"}
    assert model_value(entry) == entry
