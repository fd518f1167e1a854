"""Recipes of mergekit read from files that nobody vouches for."""

import pytest

from scripts.mergekit.recipe import read_recipe


def test_a_base_model_of_any_length_is_a_name(tmp_path):
    (tmp_path / "c.yml").write_text(
        f"merge_method: linear\nbase_model: {'x' * 5000}\nmodels: [{{model: {'y' * 300}}}]\n"
        "parameters: {weight: 1}\ndtype: float32\n"
    )
    recipe, problems = read_recipe(tmp_path / "c.yml")
    assert (recipe.base.location, problems) == ("x" * 5000, [])


@pytest.mark.parametrize(
    "text", ["[" * 99_000, "a: " + "{a: " * 20_000, "- " * 49_000, "? " * 49_000]
)
def test_a_deep_recipe_is_refused(text, tmp_path):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ValueError, match="nested in more than 100 levels"):
        read_recipe(tmp_path / "c.yml")
