"""Entries of config.json: other kinds and sizes that no tensor has are refused."""

import pytest

from seme.architecture.config_entries import check_config, number

SHAPES = {"embed": (64, 16), "layers.0.w": (16, 16), "layers.1.w": (16, 16)}
WHOLE = {"model_type": "x", "num_hidden_layers": 2, "vocab_size": 64, "hidden_size": 16}


def test_a_config_that_fits_its_tensors_is_accepted():
    check_config(WHOLE, SHAPES, path="c")
    check_config({**WHOLE, "intermediate_size": [16, 8], "n_inner": None}, SHAPES, path="c")
    check_config({"text_config": WHOLE, "tie_word_embeddings": True}, SHAPES, path="c")
    check_config({}, {}, path="c")


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"text_config": "x"}, "text_config in c must be an object or null, got 'x'"),
        (
            {"text_config": {"model_type": []}},
            r"model_type in c must be text or null, got \[\]",
        ),
        ({"rope_scaling": [1]}, r"rope_scaling in c must be an object or null, got \[1\]"),
        ({"model_type": []}, r"model_type in c must be text or null, got \[\]"),
        ({"architectures": 5}, "architectures in c must be a list of texts, got 5"),
        ({"layer_types": [[]]}, r"layer_types in c must be a list of texts, got \[\[\]\]"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings in c must be true or false"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers in c must be a size, got '2'"),
        ({"hidden_size": float("nan")}, "hidden_size in c must be a size, got nan"),
        ({"n_head": -1}, "n_head in c must be a size, got -1"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers in c is 10000000, but there are 3"),
        ({"text_config": {"n_layer": 4}}, "n_layer in c is 4, but there are 3 tensors"),
        ({"vocab_size": 65}, "vocab_size in c is 65, but the largest dimension .* is 64"),
        ({"intermediate_size": [8, 100]}, "intermediate_size in c is 100, but the largest"),
    ],
)
def test_other_entries_are_refused(entries, match):
    with pytest.raises(ValueError, match=match):
        check_config({**WHOLE, **entries}, SHAPES, path="c")


def test_only_layers_are_bounded_where_shapes_are_unknown():
    names = dict.fromkeys(SHAPES, ())
    check_config(WHOLE, names, path="c")
    with pytest.raises(ValueError, match="there are 3 tensors"):
        check_config({**WHOLE, "num_hidden_layers": 4}, names, path="c")


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), 10**39, -1, [1.0]])
def test_numbers_are_finite_and_in_range(value):
    assert number({}, "x", 2, least=0, most=9) == 2.0
    with pytest.raises(ValueError, match=r"must give a finite number in \[0, 9\] for x, got "):
        number({}, "x", value, least=0, most=9)
