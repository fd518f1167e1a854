"""Report from a few hand-written records, and the command that writes it."""

from dataclasses import replace

import pytest

from eval.leaderboard.board import boards_of
from eval.report.experiment import Experiment, read_experiment, records_folder
from eval.report.render import to_html, to_markdown
from eval.report.report import ReportInput, report_of
from eval.results_folder import Problem, load_results
from scripts.report import main
from tests.report_records import Results

TOY = Experiment(
    name="toy", text="Is it so?", commands=("python run.py -m experiment=toy",),
    output="results/toy", suite=None,
)  # fmt: skip


FOUR = "averaging, task arithmetic, TIES and DARE"


def write(folder):
    """SeMe ahead of averaging, no different from TIES, worse than DARE's two seeds."""
    results = Results(folder)
    results.add_unmerged("base", {"a": 6, "b": 6})
    results.add("seme", {"a": 18, "b": 12}, settings={"tau": 0.2, "lam": 1.0}, seconds=0.5)
    results.add("average", {"a": 6, "b": 0}, seconds=1.5)
    results.add("ties", {"a": 18, "b": 11}, settings={"density": 0.2}, mib=20)
    results.add("dare", {"a": 24, "b": 24}, settings={"density": 0.2}, seconds=1.0)
    results.add("dare", {"a": 24, "b": 18}, settings={"density": 0.2}, seconds=3.0, seed=1)
    results.add_refused("task_arithmetic", {"a": 0, "b": 0})
    return results.root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "records")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The report in Markdown."""
    return to_markdown(blocks(write(tmp_path_factory.mktemp("records"))))


def blocks(root, experiment=TOY, problems=()):
    boards = boards_of(load_results(root).runs)
    return report_of(
        ReportInput(experiment=experiment, boards=boards, publications=(), problems=problems)
    )


def test_verdicts_of_another_experiment_stand_beside(root, tmp_path):
    other = Results(tmp_path / "other")
    other.add_unmerged("base", {"a": 6, "b": 6})
    other.add("average", {"a": 6, "b": 0})
    boards, beside = (boards_of(load_results(r).runs) for r in (root, other.root))
    inputs = ReportInput(
        experiment=replace(TOY, beside="other"),
        boards=boards,
        publications=(),
        problems=(),
        boards_beside=beside,
    )
    rows = section(to_markdown(report_of(inputs)), "### Verdicts on both pools")
    assert "| claim of the paper | toy | other |" in rows
    claim = "SeMe has a better average performance than DARE."
    assert f"| {claim} | not supported | not measured |" in rows


def test_header_names_the_experiment_beside(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("# python run.py -m experiment=toy\n# Beside: paper\noutput: results/toy\n")
    experiment = read_experiment(path)
    assert experiment.beside == "paper"
    assert "paper" not in experiment.text


def section(text, heading):
    """Lines of a section, up to the next heading of its level or above."""
    level = heading.split()[0]
    after = text.split(f"\n{heading}\n\n")[1]
    return after.split(f"\n{level} ")[0].split("\n## ")[0].strip().splitlines()


def test_results_table_has_mean_error_seeds_and_costs(text):
    lines = section(text, "### zoo on toy_test, split test")
    # DARE: means 100 and 87.5, median of 1 and 3 seconds; errors 0.1 / sqrt(2) of each
    assert [line for line in lines if line.startswith("|")] == [
        "| method | settings | performance, % | seeds | a | b | merge s | merge MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| base | unmerged | 25.00 ± 7.07 |  | 25.0 | 25.0 |  |  |",
        "| SeMe |  | 62.50 ± 7.07 | 1 | 75.0 | 50.0 | 0.50 | 10 |",
        "| averaging |  | 12.50 ± 7.07 | 1 | 25.0 | 0.0 | 1.50 | 10 |",
        "| TIES |  | 60.42 ± 7.07 | 1 | 75.0 | 45.8 | 1.00 | 20 |",
        "| DARE |  | 93.75 ± 7.07 | 2, s.d. 8.84 | 100.0 | 87.5 | 2.00 | 10 |",
    ]


def test_summary_has_every_verdict(text):
    rows = [line.split(" | ") for line in section(text, "## Summary")]
    verdicts = {
        row[0].removeprefix("| "): row[1] for row in rows if row[0].startswith("| SeMe")
    }
    assert verdicts == {
        "SeMe has a better average performance than averaging.": "**supported**",
        "SeMe has a better average performance than task arithmetic.": "**not measured**",
        "SeMe has a better average performance than TIES.": "**not supported**",
        "SeMe has a better average performance than DARE.": "**not supported**",
        f"SeMe costs less runtime than {FOUR}.": "**not measured**",
        f"SeMe costs less memory than {FOUR}.": "**not supported**",
        "SeMe needs no data.": "**supported**",
        "SeMe works across architectures.": "**supported**",
    }


def test_common_settings_precede_the_table(text):
    assert (
        "Settings of all rows: DARE: density=0.2; SeMe: lam=1 tau=0.2; TIES: density=0.2."
        in text
    )


def test_setting_tuned_on_the_test_split_is_marked(root):
    Results(root).add("ties", {"a": 3, "b": 3}, settings={"density": 0.1})
    rows = [
        line for line in to_markdown(blocks(root)).splitlines() if line.startswith("| TIES | d")
    ]
    assert "† |" in rows[0]


def test_refused_runs_are_listed_with_a_reason(text):
    lines = section(text, "### Runs without a score")
    assert (
        lines[-1] == "| zoo | task_arithmetic | seed=0 | not applicable: needs other sources |"
    )


def test_report_ends_with_its_commands(text):
    lines = section(text, "## To repeat it")
    assert lines == [
        "```sh",
        "python run.py -m experiment=toy",
        "python -m scripts.report experiment=toy",
        "```",
    ]


def test_validation_experiment_reports_the_validation_split(root):
    results = Results(root)
    results.add("seme", {"a": 6, "b": 6}, settings={"tau": 0.1}, split="validation")
    on_validation = Experiment(
        name="toy", text="", commands=("c",), output="o", suite="toy_validation"
    )
    text = to_markdown(blocks(root, on_validation))
    assert "### zoo on toy_validation, split validation" in text
    assert "### zoo on toy_test" not in text
    assert "### zoo on toy_validation" not in to_markdown(blocks(root))


def test_invalid_files_are_listed_in_the_report(root):
    text = to_markdown(blocks(root, problems=[Problem(path=root / "x", message="is damaged")]))
    assert "## Files that cannot be trusted" in text
    assert "x is damaged" in text


def test_report_is_reproducible(root):
    first, second = blocks(root), blocks(root)
    assert to_markdown(first) == to_markdown(second)
    assert to_html(first) == to_html(second)


def test_command_writes_markdown_html_and_figures(root, tmp_path, capsys):
    out = tmp_path / "reports"
    out.mkdir()
    (out / "paper.gone.svg").touch()
    (out / "other.kept.svg").touch()
    assert main(["experiment=paper", f"records={root}", f"output={out}"]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"paper.md", "paper.html", "other.kept.svg"} < names
    assert "paper.gone.svg" not in names
    drawn = [name for name in names if name.startswith("paper.zoo-toy-test-")]
    text = (out / "paper.md").read_text()
    assert drawn
    assert all(f"]({name})" in text for name in drawn)
    assert "7 records in" in capsys.readouterr().out


def test_damaged_record_is_reported_with_exit_code_1(root, tmp_path, capsys):
    next(root.glob("runs/ties*/record.json")).write_text("{")
    assert main(["experiment=paper", f"records={root}", f"output={tmp_path}"]) == 1
    assert "record.json is not a readable record" in capsys.readouterr().err
    text = (tmp_path / "paper.md").read_text()
    assert "record.json is not a readable record" in text
    assert "| averaging |" in text


def test_folder_without_merges_names_the_command(tmp_path, capsys):
    assert main(["experiment=paper", f"records={tmp_path}", f"output={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "python run.py -m experiment=" in message


@pytest.mark.parametrize(
    "arguments", [[], ["records=x"], ["experiment="], ["experiment=a", "b=c"]]
)
def test_invalid_arguments_print_the_usage(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: python -m scripts.report experiment=NAME" in capsys.readouterr().err


HEADER = """# @package _global_
# python run.py -m experiment=toy
# Is it so?
# Cost: nothing.
defaults:
  - override /suite: zoo_validation
output: results/toy
# python not.a.command
"""


def write_experiment(folder, text=HEADER):
    (folder / "toy.yaml").write_text(text)
    return folder / "toy.yaml"


def test_header_has_question_and_commands(tmp_path):
    experiment = read_experiment(write_experiment(tmp_path))
    assert experiment.name == "toy"
    assert experiment.text == "Is it so? Cost: nothing."
    assert experiment.commands == ("python run.py -m experiment=toy",)
    assert (experiment.output, experiment.suite) == ("results/toy", "zoo_validation")


def test_experiment_without_a_suite_override_has_none(tmp_path):
    text = HEADER.replace("  - override /suite: zoo_validation", "  - override /models: zoo")
    assert read_experiment(write_experiment(tmp_path, text)).suite is None


def test_read_experiment_lists_the_known_ones(tmp_path):
    write_experiment(tmp_path)
    with pytest.raises(ValueError, match=r"experiment must be one of \['toy'\], got papr"):
        read_experiment(tmp_path / "papr.yaml")


@pytest.mark.parametrize(
    "missing", ["# python run.py -m experiment=toy\n", "output: results/toy\n"]
)
def test_experiment_without_command_or_output_is_refused(tmp_path, missing):
    with pytest.raises(ValueError, match=r"toy.yaml must state its command in the header"):
        read_experiment(write_experiment(tmp_path, HEADER.replace(missing, "")))


def test_committed_experiments_are_readable(repository):
    paths = sorted((repository / "conf" / "experiment").glob("*.yaml"))
    assert paths
    for path in paths:
        assert f"experiment={path.stem}" in " ".join(read_experiment(path).commands)


def test_local_records_have_precedence_over_published_ones(tmp_path):
    experiment = read_experiment(write_experiment(tmp_path))
    assert records_folder(experiment, tmp_path) == tmp_path / "results/toy"
    (tmp_path / "results/published/toy").mkdir(parents=True)
    assert records_folder(experiment, tmp_path) == tmp_path / "results/published/toy"
    (tmp_path / "results/toy/runs").mkdir(parents=True)
    assert records_folder(experiment, tmp_path) == tmp_path / "results/toy"
