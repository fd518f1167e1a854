"""Labels of models: safe, apart, and refused where two are given one."""

import pytest

from seme.labels import Place, labels_of


def labels(*locations, revision=None):
    return labels_of([Place(None, location, revision) for location in locations])


def test_a_label_is_the_last_part_of_the_location():
    assert labels("models/base", "org/Qwen2.5-0.5B", "~/my code (v2)") == [
        "base", "Qwen2.5-0.5B", "my-code-v2-",
    ]  # fmt: skip


def test_models_of_one_name_are_told_apart_by_the_folders_above():
    assert labels("base", "runs/code/checkpoint-100", "runs/french/checkpoint-100") == [
        "base", "code-checkpoint-100", "french-checkpoint-100",
    ]  # fmt: skip
    assert labels("a/x/final", "b/x/final") == ["a-x-final", "b-x-final"]
    assert labels("org/model", "other/model") == ["org-model", "other-model"]


def test_the_same_model_twice_has_one_label():
    assert labels("runs/a", "runs/a") == ["a", "a"]


def test_revisions_of_a_model_are_told_apart():
    places = [
        Place(None, "org/m", None),
        Place(None, "org/m", "v1.0"),
        Place(None, "org/m", "b/c"),
    ]
    first, *others = labels_of(places)
    assert others == ["org-m-v1.0", "org-m-b-c"]
    assert first.startswith("org-m-")


@pytest.mark.parametrize(
    ("location", "start"),
    [
        ("runs/_final", "final"),
        ("runs/.hidden", "hidden"),
        ("runs/größe", "groe-"),
        ("runs/модель", "model-"),
        ("runs/模型", "model-"),
        ("runs/" + "x" * 250, "xxxx"),
        ("/", "model-"),
    ],
)
def test_any_folder_has_a_label(location, start):
    (label,) = labels(location)
    assert label.startswith(start)
    assert label.isascii()
    assert label[0].isalnum()
    assert len(label) <= 61


def test_folders_in_other_letters_are_told_apart():
    assert len(set(labels("runs/模型一", "runs/模型二", "runs/модель"))) == 3


@pytest.mark.parametrize("name", ["a/b", "", ".x", 5, "x" * 101, ["a"]])
def test_an_unusable_name_is_refused(name):
    with pytest.raises(ValueError, match="a model's name holds at most 100 letters"):
        labels_of([Place(name, "code", None)])


def test_two_models_given_one_name_are_refused():
    places = [Place("x", "a", None), Place("x", "b", None)]
    with pytest.raises(ValueError, match="several models are named x: a, b; give each"):
        labels_of(places)
