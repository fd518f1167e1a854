import pytest

from seme.overrides import has_gradient, parameter_of, parse_overrides, text_of


def test_an_entry_without_match_is_for_all_tensors():
    (override,) = parse_overrides([{"layers": [0, 8], "lam": 0.3}])
    assert (override.match, override.layers, override.values) == ("*", (0, 8), {"lam": 0.3})


def test_text_is_json_without_spaces_and_gives_the_entries_back():
    entries = [{"match": "*.mlp.*", "layers": [1, 2], "lam": {"gradient": [0, 0.5]}}]
    text = text_of(parse_overrides(entries))
    assert text == '[{"match":"*.mlp.*","layers":[1,2],"lam":{"gradient":[0,0.5]}}]'


def test_a_gradient_is_found_alone_and_in_a_list():
    gradient = {"gradient": [0, 1]}
    assert has_gradient(gradient)
    assert has_gradient([0.5, gradient])
    assert not has_gradient([0.5, 1])
    assert not has_gradient("gradient")


def test_a_key_may_name_one_item_of_a_list():
    assert parameter_of("weights.1") == ("weights", 1)
    assert parameter_of("lam") == ("lam", None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lam", r"overrides must be a list such as \[\{match"),
        ([3], r"overrides\.0 must be a mapping"),
        ([{"match": "*"}], r"overrides\.0 must give a parameter a value"),
        ([{"match": 3, "lam": 1}], r"overrides\.0\.match must be a glob pattern, got 3"),
        ([{"match": "", "lam": 1}], r"overrides\.0\.match must be a glob pattern, got ''"),
        ([{"layers": 3, "lam": 1}], r"overrides\.0\.layers must be \[first, last \+ 1\]"),
        ([{"layers": [2, 2], "lam": 1}], r"layers\.1 must be a whole number of at least 3"),
        ([{"layers": [0.5, 2], "lam": 1}], r"layers\.0 must be a whole number of at least 0"),
        ([{"lam": 1}, {"lam": {"gradient": []}}], r"overrides\.1\.lam\.gradient must be a list"),
        ([{"lam": {"gradient": 1}}], r"overrides\.0\.lam\.gradient must be a list of numbers"),
        ([{"lam": {"gradient": [0, "a"]}}], r"lam\.gradient\.1 must be a finite number, got 'a'"),
        ([{"lam": {"gradients": [0, 1]}}], r"overrides\.0\.lam must be a number, a text, a list"),
        ([{"weights": [[1], [2]]}], r"overrides\.0\.weights must be a number, a text, a list"),
    ],
)  # fmt: skip
def test_malformed_overrides_are_refused_by_place(value, message):
    with pytest.raises(ValueError, match=message):
        parse_overrides(value)
