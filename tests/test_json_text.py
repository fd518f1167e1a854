"""JSON of untrusted files: bounded in memory, digits and depth."""

import pytest

from seme.checkpoint.json_text import parse_object


def refused(text, match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        parse_object(text, what="the file", **options)
    assert len(str(caught.value)) < 400


def test_objects_are_parsed():
    text = '{"a": [1, 2.5, null], "b": {"c": "\u00e9\U0001f600"}}'.encode()
    assert parse_object(text, what="x") == {"a": [1, 2.5, None], "b": {"c": "\u00e9\U0001f600"}}
    assert parse_object(b'{"a":1,"a":2}', what="x") == {"a": 2}
    assert parse_object(b'{"e": "\\ud83d\\ude00"}', what="x") == {"e": "\U0001f600"}
    assert parse_object(b'{"length": 1' + b"0" * 30 + b"}", what="x") == {"length": 10**30}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"{", "the file cannot be parsed: "),
        (b"\xff", "the file cannot be parsed: .utf-8. codec"),
        (b"[" * 100_000, "the file cannot be parsed: "),
        (
            b"[" + b"1," * 100_000 + b"1]",
            r"must hold a JSON object, got \[1, 1, 1, 1, 1, 1, ...\]",
        ),
        (b'{"a": 1' + b"0" * 40 + b"}", "a number of 41 digits, expected at most 40"),
        (b'{"a": -' + b"1" * 5000 + b"}", "a number of 5001 digits"),
        (b'{"a":' * 64 + b"{}" + b"}" * 64, "nested more than 64 levels"),
        (b'{"a": "\\ud800"}', r"holds .\\ud800., half of a surrogate pair"),
        (b'{"a": "\xed\xa0\x80"}', "cannot be parsed"),
    ],
)
def test_other_texts_are_refused_briefly(text, match):
    refused(text, match)


def test_duplicate_names_are_refused_on_request():
    refused(b'{"a": 1, "b": 2, "a": 3}', "duplicate name 'a'", unique=True)


def test_texts_that_take_more_memory_than_the_budget_are_refused_unparsed():
    refused(
        b"[" + b"[]," * 2_000_000 + b"[]]", "is too large: its 6000004 bytes could take 362"
    )
    refused(b'"' + b"a" * 999 + "\U0001f600".encode() + b'"', "is too large", budget=4000)
