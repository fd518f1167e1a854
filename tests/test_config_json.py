"""Settings of a model's config.json."""

import pytest

from seme.architecture.config_json import count, setting


def test_setting_takes_the_first_key_that_is_not_null():
    assert setting({"a": None, "b": 2, "c": 3}, "a", "b", "c") == 2
    with pytest.raises(ValueError, match=r"a or b.*\['a', 'model_type'\]"):
        setting({"model_type": "llama", "a": None}, "a", "b")


@pytest.mark.parametrize("number", [0, -1, 2.0, "2", True])
def test_count_must_be_a_positive_integer(number):
    with pytest.raises(ValueError, match=rf"integer of at least 1 for n_layer, got {number!r}"):
        count({"n_layer": number}, "n_layer")
