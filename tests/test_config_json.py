"""Settings of a model's config.json."""

import pytest

from seme.architecture.config_json import count, setting


def test_a_setting_goes_by_the_first_name_that_is_not_null():
    assert setting({"a": None, "b": 2, "c": 3}, "a", "b", "c") == 2
    with pytest.raises(
        ValueError, match=r"llama model must say a or b, got only \['a', 'model"
    ):
        setting({"model_type": "llama", "a": None}, "a", "b")


@pytest.mark.parametrize("number", [0, -1, 2.0, "2", True])
def test_a_count_that_is_no_positive_integer_is_shown(number):
    with pytest.raises(ValueError, match=rf"integer of at least 1 for n_layer, got {number!r}"):
        count({"n_layer": number}, "n_layer")
