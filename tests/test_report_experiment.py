"""What a report takes from an experiment's file and from the records' setting."""

import pytest

from eval.report.report import read_experiment, records_folder
from eval.report.tables import deviations, environment_table, models_table, seeds, suites
from tests.report_records import MACHINE, Results

TEXT = """# @package _global_
# python run.py -m experiment=toy
# Is it so?
# Cost: nothing.
defaults:
  - override /suite: zoo_validation
output: results/toy
# python not.a.command
"""


def write(folder, text=TEXT):
    (folder / "toy.yaml").write_text(text)
    return folder / "toy.yaml"


def test_the_header_states_the_question_and_the_commands(tmp_path):
    found = read_experiment(write(tmp_path))
    assert found.name == "toy"
    assert found.text == "Is it so? Cost: nothing."
    assert found.commands == ("python run.py -m experiment=toy",)
    assert (found.output, found.suite) == ("results/toy", "zoo_validation")


def test_an_experiment_without_a_suite_of_its_own_has_none(tmp_path):
    text = TEXT.replace("  - override /suite: zoo_validation", "  - override /models: zoo")
    assert read_experiment(write(tmp_path, text)).suite is None


def test_an_unknown_experiment_is_told_the_known_ones(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"experiment must be one of \['toy'\], got papr"):
        read_experiment(tmp_path / "papr.yaml")


@pytest.mark.parametrize(
    "missing", ["# python run.py -m experiment=toy\n", "output: results/toy\n"]
)
def test_a_file_without_command_or_output_is_told_what_to_state(tmp_path, missing):
    with pytest.raises(ValueError, match=r"toy.yaml must state its command in the header"):
        read_experiment(write(tmp_path, TEXT.replace(missing, "")))


def test_every_committed_experiment_can_be_read(repository):
    paths = sorted((repository / "conf" / "experiment").glob("*.yaml"))
    assert paths
    for path in paths:
        assert f"experiment={path.stem}" in " ".join(read_experiment(path).commands)


def test_one_s_own_records_come_before_the_published_ones(tmp_path):
    experiment = read_experiment(write(tmp_path))
    assert records_folder(experiment, tmp_path) == tmp_path / "results/toy"
    (tmp_path / "results/published/toy").mkdir(parents=True)
    assert records_folder(experiment, tmp_path) == tmp_path / "results/published/toy"
    (tmp_path / "results/toy/runs").mkdir(parents=True)
    assert records_folder(experiment, tmp_path) == tmp_path / "results/toy"


def test_models_and_suites_are_named_by_their_content(tmp_path):
    results = Results(tmp_path)
    boards = [g.board for g in results.grounds([results.add("ties", 6)])]
    assert models_table(boards).rows == (
        ("zoo", "pivot", "base", "zoo/base", "", "base"),
        ("zoo", "source 1", "expert", "zoo/expert", "", "expert"),
    )
    assert suites(boards).texts == (
        "Suite toy_test, split test, fingerprint test: d_task (d, n = 24).",
    )


def test_facts_in_which_runs_differ_are_counted(tmp_path):
    results = Results(tmp_path)
    other = {**MACHINE, "git": {"revision": "abc"}, "cores": 4}
    records = [results.add("ties", 6), results.add("dare", 6, provenance=other, seed=1)]
    found = dict(environment_table(records).rows)
    assert found["cpu"] == "a"
    assert found["cores"] == "2 (1 runs); 4 (1 runs)"
    assert found["git.revision"] == "abc"
    assert seeds(records) == "0, 1"


def test_deviations_are_those_of_the_methods_that_ran():
    assert {row[0] for row in deviations(["SCE"]).rows} == {"all", "SeMe, SCE", "SCE"}
    assert deviations([]).header == ("method", "paper", "here")
