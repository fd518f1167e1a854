"""Terms of use of a pool's models."""

import pytest

from seme.licences import check_terms, describe_terms


def test_terms_are_grouped_by_licence_and_access():
    lines = describe_terms(
        [
            ("base", {"location": "org/base", "licence": "llama3.2", "gated": True}),
            ("a", {"location": "org/a", "licence": "cc-by-nc-nd-4.0"}),
            ("b", {"location": "org/b", "licence": "cc-by-nc-4.0", "gated": False}),
            ("c", {"location": "org/c"}),
        ]
    )
    assert lines[0] == (
        "licences: cc-by-nc-4.0: b; cc-by-nc-nd-4.0: a; llama3.2: base; not stated: c"
    )
    starts = [line.split(":")[0] for line in lines[1:]]
    assert starts == [
        "a (cc-by-nc-nd-4.0)", "b (cc-by-nc-4.0)", "a (cc-by-nc-nd-4.0)", "gated",
    ]  # fmt: skip
    assert "FORBIDS MERGING" in lines[1]
    assert "no commercial use" in lines[2]
    assert lines[4].startswith("gated: org/base: ")


def test_gated_adapter_is_named_by_its_own_location():
    lines = describe_terms([("a", {"path_to_adapter": "org/lora", "gated": True})])
    assert lines[0] == "licences: not stated: a"
    assert lines[1].startswith("gated: org/lora: ")


def test_nothing_stated_is_nothing_to_say():
    assert describe_terms([("a", {"location": "a"})]) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"licence": 3}, "licence must be an id such as apache-2.0, got 3"),
        ({"licence": " "}, "licence must be an id"),
        ({"gated": "yes"}, "gated must be true or false, got 'yes'"),
    ],
)
def test_malformed_terms_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        check_terms(entry)
    check_terms({"licence": "mit", "gated": True})
