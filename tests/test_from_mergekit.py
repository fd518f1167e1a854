"""mergekit's YAML as runs of this project: numbers, differences, and what has no counterpart."""

import importlib.util
import json
import subprocess

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scripts.from_mergekit import convert, main
from tests.configurations import composed
from tests.mergekit_recipes import EQUAL
from tests.mergekit_runs import (
    NUMBERS,
    job_of,
    merged_by_mergekit,
    merged_here,
    sums_of,
    write_models,
    write_recipe,
)
from tests.mergekit_weighted import RecipeText

HAS_MERGEKIT = importlib.util.find_spec("mergekit") is not None
TIES = """
merge_method: ties
base_model: BASE
models: [{model: A}, {model: B}]
parameters: {weight: 1, density: 0.5}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def converted(text, root, *, as_mergekit=False):
    return convert(write_recipe(text, root), as_mergekit=as_mergekit)


def problems_of(text, root, *, as_mergekit=False):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (its lines are compared)
        converted(text, root, as_mergekit=as_mergekit)
    return str(refused.value).splitlines()


def test_there_are_numbers_of_mergekit_for_every_recipe():
    assert json.loads(NUMBERS.read_text()).keys() == EQUAL.keys()
    assert len(EQUAL) >= 30


@pytest.mark.parametrize("name", EQUAL)
def test_numbers_are_mergekits(name, root, tmp_path):
    recipe = EQUAL[name]
    merged = merged_here(recipe, root, tmp_path / "here")
    expected = json.loads(NUMBERS.read_text())[name]
    assert sums_of(merged) == pytest.approx(expected, rel=0, abs=100 * recipe.tolerance)
    if not HAS_MERGEKIT:
        return
    there = merged_by_mergekit(recipe, root, tmp_path / "there")
    assert merged.keys() == there.keys()
    for tensor, values in there.items():
        assert merged[tensor].dtype == values.dtype
        difference = (merged[tensor].float() - values.float()).abs().max()
        assert difference <= recipe.tolerance, tensor


@pytest.mark.parametrize("name", EQUAL)
def test_command_line_gives_the_entries_back(name, root):
    entries = converted(EQUAL[name].text, root, as_mergekit=EQUAL[name].as_mergekit).entries
    arguments = entries.arguments()
    parsed = OverridesParser.create().parse_overrides(arguments)
    values = {override.key_or_group: override.value() for override in parsed}
    assert values["method"] == entries.method
    assert values.get("dtype") == entries.dtype
    given = [{str(k): v for k, v in entry.items()} for entry in values.get("overrides", [])]
    assert given == list(entries.overrides)
    for key in entries.values.keys() & {"t", "lam", "weights", "densities", "density", "tau"}:
        if f"method.{key}" in values:
            assert values[f"method.{key}"] == entries.values[key]


@pytest.mark.parametrize("name", ["a b", 'a"b', r"a\b", "a\\", "a,b]", "a:{b}", "ä", "a'b"])
def test_odd_names_of_models_survive_the_command_line(name, root):
    text = f"merge_method: karcher\nmodels: [{{model: A}}, {{model: {json.dumps(name)}}}]"
    entries = converted(text, root).entries
    parsed = OverridesParser.create().parse_overrides(entries.arguments())
    values = {override.key_or_group: override.value() for override in parsed}
    assert values["models.sources"] == [entries.pivot["location"], name]


@pytest.mark.parametrize("name", ["slerp_slices_with_filters", "ties_gradients", "sce_topk"])
def test_composed_configuration_has_the_methods_values(name, root):
    entries = converted(EQUAL[name].text, root, as_mergekit=EQUAL[name].as_mergekit).entries
    config = composed(*entries.arguments(), "suite=none")
    given = {key: value for key, value in config["method"].items() if not key.startswith("_")}
    assert given == entries.values
    assert config["overrides"] == list(entries.overrides)


def test_stacked_layers_make_a_model_that_transformers_loads(root, tmp_path):
    recipe = EQUAL["passthrough_stacked"]
    merged = merged_here(recipe, root, tmp_path / "here")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "here")
    assert model.config.num_hidden_layers == 6
    for name, values in model.state_dict().items():
        assert torch.equal(values, merged[name])
    b = load_file(root / "B" / "model.safetensors")
    own, stacked = (f"model.layers.{k}.mlp.up_proj.weight" for k in (3, 5))
    assert torch.equal(merged[stacked], b[own])


def test_readings_of_this_project_say_how_they_differ(root):
    found = converted(TIES + "dtype: bfloat16", root)
    assert found.entries.method == "ties"
    assert found.entries.values["scope"] == "tensor"
    assert [line.split(";")[0] for line in found.differences] == [
        "kept are round(density n) elements, never a zero",
        "a zero sum elects nobody",
        "computed in float32 and rounded once",
    ]


@pytest.mark.parametrize("given", ["tokenizer_source: base", "tokenizer: {source: BASE}"])
def test_tokenizer_of_the_base_orders_rows_by_token(root, given):
    found = converted(TIES + given, root)
    assert found.entries.tokens == "by_text"
    assert "tokens=by_text" in found.entries.arguments()
    assert found.differences[-1].startswith("rows of embeddings follow the tokens")
    assert converted(TIES, root).entries.tokens is None


@pytest.mark.parametrize(
    ("method", "extra", "message"),
    [
        (
            "dare_linear",
            "density: 0.5",
            "survivors are divided by the density; mergekit restores",
        ),
        ("dare_ties", "density: 0.5", "values of the elected sign are averaged; mergekit adds"),
        ("della", "density: 0.5", "survivors are divided by their own keep probabilities"),
        ("breadcrumbs", "density: 0.5", "left out and kept are rounded shares"),
        ("sce", "select_topk: 0.5", "weights follow the energies however small"),
    ],
)
def test_each_difference_of_definition_is_named(method, extra, message, root):
    text = TIES.replace("ties", method).replace("density: 0.5", extra)
    differences = converted(text, root).differences
    assert any(line.startswith(message) for line in differences), differences
    assert len(converted(text, root, as_mergekit=True).differences) < len(differences)


def test_random_steps_follow_another_generator_as_mergekit_too(root):
    text = TIES.replace("ties", "dare_ties")
    found = converted(text, root, as_mergekit=True)
    assert found.differences == ("what is dropped is drawn from other random numbers",)


def test_parameters_that_mergekit_ignores_are_noted(root):
    found = converted(EQUAL["model_stock_listed_base_and_ignored_weights"].text, root)
    assert found.notes == (
        "parameters.int8_mask: model_stock ignores it",
        "parameters.normalize: model_stock ignores it",
        "models.1.parameters.weight: model_stock ignores it",
        "models.2.parameters.density: model_stock ignores it",
    )


def test_every_problem_is_named_by_its_path_at_once(root):
    text = """
merge_method: ties
base_modle: BASE
base_model: BASE
models:
  - {model: A, wieght: 3, parameters: {weight: 0.3, densty: 0.5}}
  - {model: "B@x@y"}
parameters: {normalise: true}
tokenizer_source: union
chat_template: auto
dtype: float8
"""
    lines = problems_of(text, root)
    assert [line.split(":")[0] for line in lines] == [
        "base_modle", "models.0.wieght", "models.1.model", "dtype", "tokenizer_source",
        "chat_template", "parameters.normalise", "models.0.parameters.densty",
    ]  # fmt: skip
    assert "did you mean base_model?" in lines[0]
    assert "did you mean density?" in lines[-1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ties", "nuslerp", "merge_method: nuslerp is none of breadcrumbs, "),
        ("ties", "3", "merge_method: must be the name of a method, got 3"),
        ("ties", "x" * 9999, f"merge_method: '{'x' * 37}...xxx"),
        ("base_model: BASE", "", "base_model: ties needs one"),
        ("{model: B}", "{model: A}", "models.1.model: is listed twice"),
        ("{model: B}", "B", "models.1: must be a mapping, got '"),
        ("{model: B}", "{parameters: {weight: 1}}", "models.1.model: must name a model, got None"),
        ("models: [{model: A}, {model: B}]", "models: []", "models: exactly one of models, slices"),
        ("models: [", "modules: {a: {}}\nmodels: [", "models: exactly one of models, slices and "
         "modules is needed, got models and modules"),
        ("weight: 1", "weight: {filter: mlp, value: 1}", "parameters.weight: mergekit needs a "
         "value without a filter"),
        ("weight: 1", "weight: x", "parameters.weight: must be a number, got 'x'"),
        ("weight: 1", f"weight: {'9' * 400}", f"parameters.weight: must be a number, got {'9' * 60}"),
        ("weight: 1", "weight: []", "parameters.weight: must be a value, a list"),
        ("weight: 1", "weight: [{value: 1, fliter: mlp}]", "parameters.weight: a condition has "
         "filter and value, not fliter"),
        ("weight: 1", "weight: 1, normalize: [true, false]", "parameters.normalize: must be true "
         "or false"),
        ("weight: 1", "weight: -1", "models.*.parameters.weight: must be positive; --as-mergekit"),
        ("weight: 1", "weight: 1, rescale: true", "parameters.rescale: trimmed task vectors"),
        ("{model: B}", "{model: B, parameters: {weight: 2}}", "models.*.parameters.weight: must be "
         "the same for all models, the method here has no weight per source; --as-mergekit has it"),
        ("{model: B}", "{model: {model: B, override_architecture: X}}", "models.1.model."
         "override_architecture: cannot be expressed"),
        ("density: 0.5", "density: 1.5", "density must be in (0, 1], got 1.5"),
        ("density: 0.5", "density: [0.5, 2]", "overrides give model.layers.2"),
        ("base_model: BASE", "base_model: BASE\nx: 1", "x: mergekit has no such key; only base_"),
        ("base_model: BASE", "base_model: BASE+A", "base_model: must be no adapter"),
        ("models: [", "tokenizer: {source: base, pad_to_multiple_of: 8}\nmodels: [",
         "tokenizer.pad_to_multiple_of: cannot be expressed"),
        ("models: [", "tokenizer_source: A\nmodels: [", "tokenizer_source: must be the model "
         "merged into"),
        ("models: [", "tokenizer: {}\nmodels: [", "tokenizer.source: union cannot be expressed"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_named(old, new, message, root):
    assert old in TIES
    lines = problems_of(TIES.replace(old, new), root)
    assert any(message in line for line in lines), lines


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("[{sources: [{model: A, layer_range: [0, 9]}]}]",
         "slices.0.sources.0.layer_range: must be within the 4 layers of "),
        ("[{sources: [{model: A, layer_range: [3, 1]}]}]",
         "slices.0.sources.0.layer_range: must be [first, last + 1]"),
        ("[{sources: [{model: A, layer_range: [0, 4]}], residual_weight: 1}]",
         "slices.0.residual_weight: cannot be expressed"),
        ("[{sources: [{model: A, layer_range: [0, 4]}], base_model: B}]",
         "slices.0.base_model: must be the base_model of the whole merge"),
        ("[{sources: [{model: A, layer_range: [0, 1]}, {model: B, layer_range: [0, 1]}]}]",
         "slices.0.sources: passthrough takes one model"),
        ("[{source: [{model: A}]}]", "slices.0.source: mergekit has no such key; did you mean "
         "sources?"),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_expressed_are_named(slices, message, root):
    lines = problems_of(f"merge_method: passthrough\nslices: {slices}", root)
    assert any(message in line for line in lines), lines


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("[{sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 3]}]}]",
         "slices.0.sources.1.layer_range: must have as many layers as the slice's first, 2, got 3"),
        ("[{sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 2]}]},"
         "{sources: [{model: A, layer_range: [2, 4]}, {model: C, layer_range: [2, 4]}]}]",
         "slices.1.sources: must be the models of the first slice"),
    ],
)  # fmt: skip
def test_slices_of_several_models_that_do_not_fit_are_named(slices, message, root):
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nslices: {slices}"
    lines = problems_of(text, root)
    assert any(message in line for line in lines), lines


def test_filter_with_a_number_is_refused_where_layers_move(root):
    text = EQUAL["slerp_of_other_layers"].text.replace("filter: mlp", 'filter: "layers.3"')
    (line,) = problems_of(text, root)
    assert "the filter 'layers.3' cannot be expressed" in line


def test_filters_are_taken_literally_not_as_patterns(root):
    text = EQUAL["slerp_half"].text.replace(
        "t: 0.5", "t: [{filter: 'm?p', value: 1}, {value: 0}]"
    )
    entries = converted(text, root).entries
    assert (entries.values, entries.overrides) == ({"t": 0}, ())


def test_adapters_and_revisions_are_models_of_a_pool(root):
    text = """
merge_method: linear
models:
  - {model: org/base@v1+org/lora@v2, parameters: {weight: 1}}
  - {model: {model: {path: org/base, revision: v3}, lora: org/other}, parameters: {weight: 1}}
base_model: org/base
"""
    lines = problems_of(text, root)
    assert lines == ["base_model.parameters.weight: mergekit needs a value without a filter, "
                     "there is none"]  # fmt: skip
    entries = converted(text + "parameters: {weight: 2}", root).entries
    assert entries.pivot == {"location": "org/base"}
    assert entries.sources == (
        {
            "location": "org/base", "revision": "v1",
            "path_to_adapter": "org/lora", "adapter_revision": "v2",
        },
        {"location": "org/base", "revision": "v3", "path_to_adapter": "org/other"},
        {"location": "org/base"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must be a mapping with merge_method and models"),
        ("merge_method: ties\nbase_model: B\nmodels: [{model: B}]", "the base_model alone"),
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
         "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
         "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e, *e]",
         "cannot be read as YAML: more than 100000 nodes when aliases"),
        ("a: " + "[" * 5000, "cannot be read as YAML"),
        ("#" * 100_001, "has 100001 bytes, expected at most 100000"),
        ("a: !!int _", "cannot be read as YAML"),
        ("a: !!timestamp x", "cannot be read as YAML"),
        ("a: \udcff", "cannot be read as YAML"),
    ],
    ids=["list", "base", "syntax", "object", "aliases", "depth", "size", "number", "date", "bytes"],
)  # fmt: skip
def test_file_is_read_within_bounds(content, message, tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert main([str(path)]) == 1
    assert message in capsys.readouterr().err


def test_file_that_cannot_be_read_is_named_once(tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_text("a: " + "[" * 101)
    assert main([str(path)]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count(str(path)) == 1
    assert shown.endswith("cannot be read as YAML: values are nested in more than 100 levels")


def test_missing_file_and_arguments(tmp_path, capsys):
    assert main([str(tmp_path / "none.yml")]) == 1
    assert "must be a YAML file, there is none" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["a.yml", "--mergekit"]) == 2
    assert "usage: python -m scripts.from_mergekit CONFIG.yml" in capsys.readouterr().err


def test_show_prints_the_run_and_starts_nothing(root, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assert main([str(write_recipe(TIES, root)), "--show"]) == 0
    *notes, command = capsys.readouterr().out.splitlines()
    assert notes[0].startswith("differs from mergekit: kept are round(density n) elements")
    assert command.startswith("python run.py method=ties models=custom method.density=0.5 ")
    assert command.endswith("suite=none")


def test_stacking_is_said(root, capsys):
    path = write_recipe(EQUAL["passthrough_stacked"].text, root)
    assert main([str(path), "--show"]) == 0
    assert "stacked: the result has 6 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ranges", "line"),
    [
        (["[0, 1]", "[2, 4]"], "stacked: of {a}, layer 1 is left out"),
        (["[0, 3]", "[1, 4]"], "stacked: of {a}, layers 1, 2 are repeated"),
        (["[0, 2]", "[1, 3]"], "stacked: of {a}, layer 3 is left out and layer 1 is repeated"),
    ],
)
def test_layers_left_out_and_repeated_are_named(ranges, line, root, capsys):
    slices = [f"{{sources: [{{model: A, layer_range: {layers}}}]}}" for layers in ranges]
    text = f"merge_method: passthrough\nslices: [{', '.join(slices)}]\n"
    assert main([str(write_recipe(text, root)), "--show"]) == 0
    assert line.format(a=root / "A") in capsys.readouterr().out.splitlines()


def test_run_gets_further_arguments_and_gives_its_status(root, monkeypatch):
    commands = []

    def run(command, **_options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    assert main([str(write_recipe(TIES, root)), "suite=tiny", "force=true"]) == 7
    assert commands[0][1] == "run.py"
    assert commands[0][-2:] == ["suite=tiny", "force=true"]


def test_recipe_of_one_model_many_times_has_no_leftovers(root, tmp_path):
    recipe = RecipeText("merge_method: passthrough\nmodels: [{model: A}]")
    merged = merged_here(recipe, root, tmp_path / "here")
    own = load_file(root / "A" / "model.safetensors")
    assert all(torch.equal(merged[name], own[name]) for name in own)
    job = job_of(converted(recipe.text, root).entries, root)
    assert job.settings.overrides == ()
