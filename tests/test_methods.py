"""The list of methods: from their files, docstrings and checks, as a table and as JSON."""

import json
import re
from functools import partial

import pytest
import yaml

from scripts.methods import main, read_method
from seme.binding import check_method, hyper_parameter_names, method_settings
from tests.configurations import CONF
from tests.golden_merges import method_of

FILES = sorted((CONF / "method").glob("*.yaml"))


@pytest.fixture(scope="module")
def listed():
    return {path.stem: read_method(path) for path in FILES}


def test_ties_is_listed_as_its_file_and_its_paper_have_it(listed):
    ties = listed["ties"]
    assert ties.title == "TIES-Merging: trim, elect sign, disjoint mean."
    assert ties.references == ("https://arxiv.org/abs/2306.01708",)
    rows = [(p.name, p.default, p.allowed) for p in ties.parameters]
    assert rows == [
        ("density", "${tau}", "in (0, 1]"),
        ("lam", 1.0, "a finite number"),
        ("scope", "model", "one of model, tensor"),
        ("trim_ties", "exact", "one of exact, keep_all"),
    ]
    assert ties.parameters[0].text.startswith(
        "Share of each task vector that survives the trim"
    )
    assert (ties.function, ties.min_sources, ties.max_sources) == (
        "baselines.ties.merge",
        1,
        None,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_method_has_a_paper_and_every_parameter_a_range(path, listed):
    method = listed[path.stem]
    assert method.title.endswith(".")
    assert method.references
    assert method.remark in " ".join(path.read_text().replace("# ", "").split())
    names = {p.name.partition(".")[0] for p in method.parameters}
    assert names == hyper_parameter_names(method_of(path.stem))
    assert [p.name for p in method.parameters if not p.allowed] == []


def test_defaults_are_those_of_the_files(listed):
    for path in FILES:
        config = yaml.safe_load(path.read_text())
        flat = method_settings(method_of(path.stem)).keys()
        rows = {p.name: p.default for p in listed[path.stem].parameters}
        assert rows.keys() == flat
        assert all(value == config[key] for key, value in rows.items() if "." not in key)


def test_ranges_are_those_that_the_check_enforces(listed):
    # a value inside and one outside of every interval, through the command's own check
    tried = 0
    for name, method in listed.items():
        for parameter in method.parameters:
            if parameter.allowed in ("in (0, 1]", "in [0, 1]") and "." not in parameter.name:
                bound = partial(method_of(name), **{parameter.name: 1.5})
                n_sources = max(method.min_sources, 1)
                with pytest.raises(ValueError, match=re.escape(parameter.allowed)):
                    check_method(bound, n_sources)
                tried += 1
    assert tried >= 12


def test_json_holds_all_methods(capsys):
    assert main(["--json"]) == 0
    methods = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in methods] == [path.stem for path in FILES]
    (seme,) = (m for m in methods if m["name"] == "seme")
    assert {"name": "alignment.refine", "default": 0, "allowed": "a whole number of at least 0",
            "text": None} in seme["parameters"]  # fmt: skip


def test_table_has_a_line_for_each_parameter(capsys):
    assert main(["slerp", "layer_swap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "slerp",
        "t",
        "0.5",
        "in",
        "[0,",
        "1]",
        "doi.org/10.1145/325334.325242",
    ]
    assert [line.split()[0] for line in lines[4:]] == ["top", "transition"]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["tiess"], "did you mean method=ties?"), (["--jsn"], r"usage: .*, got --jsn")],
)
def test_unknown_arguments_are_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
