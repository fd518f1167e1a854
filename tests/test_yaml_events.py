"""YAML as a stream of events: sizes with aliases written out, entries of a mapping, levels."""

import math
import time

import pytest
import yaml

from seme.yaml_events import texts_of_mapping, written_out_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("a: 1", 3),
        ("a: &x [1, 2]\nb: *x", 9),
        ("a: &x 1\nb: [*x, *x]", 7),
        ("a: &x {k: &y [1]}\nb: *x\nc: *y", 14),
        ("a: &x 1\nb: &x [2, 3]\nc: *x", 11),
        ("a: &x [*x]", math.inf),
        ("", 0),
    ],
)
def test_size_counts_aliases_as_often_as_they_stand(text, size):
    assert written_out_size(text) == size


def test_size_equals_that_of_the_document_written_out():
    text = "a: &a [x, y]\nb: &b {k: *a, l: [*a, *a]}\nc: [*b, *b]"

    def size(value):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return 1 + sum(map(size, parts)) if isinstance(value, dict | list) else 1

    assert written_out_size(text) == size(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("license: mit\ntags: [a, b]\nn: 01\nx: &x {license: gpl}\ny: *x", {"license": "mit", "n": "01"}),
        ("? [a]\n: license\nb: c", {"b": "c"}),
        ("- license\n- mit", {}),
        ("license", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_texts_of_a_mapping_are_its_own_alone(text, texts):
    assert texts_of_mapping(text) == texts


@pytest.mark.parametrize("read", [written_out_size, texts_of_mapping])
def test_levels_are_bounded_before_the_text_is_read_to_its_end(read):
    started = time.process_time()
    assert read("a: " + "[" * 99 + "]" * 99) in (101, {})
    with pytest.raises(ValueError, match="nested in more than 100 levels"):
        read("a: " + "[" * 99_000)
    with pytest.raises(yaml.YAMLError):
        read("a: {")
    assert time.process_time() - started < 2
