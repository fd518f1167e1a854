"""Choice of hyper-parameters from validation runs, and the files written."""

import hashlib
import io

import pytest
import yaml
from rich.console import Console

from eval.records import write_record
from scripts.choose import choose, config_text, edges, main, share_parameter, table
from tests.made_up_runs import made_up_run


def ties(density, lam, value, **changes):
    return made_up_run(
        "ties", {"density": density, "lam": lam, "scope": "model"}, value, **changes
    )


def arithmetic(lam, value, **changes):
    return made_up_run("task_arithmetic", {"lam": lam, "weights": None}, value, **changes)


TIES = (ties(0.1, 1.0, 0.3), ties(0.1, 2.0, 0.5), ties(0.2, 1.0, 0.6), ties(0.2, 2.0, 0.4))


def lams(records):
    return {choice.name: choice.settings["lam"] for choice in choose(records)}


def test_best_lam_is_chosen_per_density_and_overall():
    assert lams(TIES) == {"ties": 1.0, "ties_0.1": 2.0, "ties_0.2": 1.0}
    assert choose(TIES)[0].settings == {"density": 0.2, "lam": 1.0, "scope": "model"}


def test_method_without_density_gets_one_choice():
    assert lams([arithmetic(0.4, 0.5), arithmetic(0.6, 0.6)]) == {"task_arithmetic": 0.6}


def test_methods_are_chosen_independently():
    assert lams([*TIES, arithmetic(0.4, 0.1)])["task_arithmetic"] == 0.4


def test_share_parameter_is_the_one_set_by_tau():
    methods = ("seme", "sce", "ties", "dare", "task_arithmetic", "average")
    parameters = [share_parameter(method) for method in methods]
    assert parameters == ["tau", "tau", "density", "density", None, None]


def test_seeds_of_a_setting_are_averaged():
    runs = [arithmetic(0.4, 0.5), arithmetic(0.6, 0.6), arithmetic(0.6, 0.2, seed=1)]
    assert lams(runs) == {"task_arithmetic": 0.4}


def test_test_split_runs_do_not_affect_the_choice():
    better_there = ties(0.2, 2.0, 0.9, split="test")
    assert lams([*TIES, better_there]) == lams(TIES)
    assert all(better_there not in choice.tried for choice in choose([*TIES, better_there]))


def test_test_split_runs_alone_are_refused():
    with pytest.raises(ValueError, match=r"validation.* \(1 merges"):
        choose([arithmetic(0.4, 0.5, split="test")])


def test_failed_candidate_is_refused():
    failed = ties(0.2, 3.0, 0.0, status="failed")
    with pytest.raises(ValueError, match=f"ties {failed.fingerprint[:12]}"):
        choose([*TIES, failed])


def test_chosen_file_has_settings_score_and_digest_of_records():
    runs = [arithmetic(0.4, 0.5), arithmetic(0.6, 0.6)]
    content = hashlib.sha256(" ".join(sorted(run.fingerprint for run in runs)).encode())
    # domains code (two tasks) and french: stderr sqrt((0.01² / 2 + 0.01²) / 4) = 0.0061
    assert [config_text(choice).splitlines() for choice in choose(runs)] == [[
        "# @package _global_",
        "# task_arithmetic: the best of 2 on the validation split, mean 60.00 ± 0.61 %",
        f"# Written by scripts/choose.py from 2 records, {content.hexdigest()[:16]} (sha256 of "
        "their fingerprints); change nothing here.",
        "defaults:",
        "- override /method: task_arithmetic",
        "method:",
        "  lam: 0.6",
        "  weights: null",
    ]]  # fmt: skip


def test_chosen_file_depends_on_records_but_not_on_their_order():
    texts = [config_text(choice) for choice in choose(TIES)]
    assert [config_text(choice) for choice in choose(TIES[::-1])] == texts
    assert [config_text(choice) for choice in choose([*TIES, ties(0.2, 3.0, 0.1)])] != texts


def test_table_has_every_run_and_its_chosen_files():
    console = Console(file=io.StringIO(), width=100)
    console.print(table(choose(TIES)))
    lines = [line for line in console.file.getvalue().splitlines() if "density=" in line]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert cells == [
        ["ties", "density=0.1 lam=1.0", "0", "30.00 ± 0.61", ""],
        ["ties", "density=0.1 lam=2.0", "0", "50.00 ± 0.61", "ties_0.1"],
        ["ties", "density=0.2 lam=1.0", "0", "60.00 ± 0.61", "ties, ties_0.2"],
        ["ties", "density=0.2 lam=2.0", "0", "40.00 ± 0.61", ""],
    ]


def test_chosen_value_at_the_edge_of_the_grid_is_reported():
    assert edges(choose([arithmetic(0.4, 0.5), arithmetic(0.6, 0.6)])) == [
        "task_arithmetic: lam=0.6 is the largest tried"
    ]
    assert edges(choose([arithmetic(0.4, 0.5), arithmetic(0.6, 0.4)])) == [
        "task_arithmetic: lam=0.4 is the least tried"
    ]
    inside = [arithmetic(lam, value) for lam, value in ((0.4, 0.5), (0.6, 0.6), (0.8, 0.5))]
    assert edges(choose(inside)) == []


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Where the files go, in a repository of the test's own."""
    monkeypatch.setattr("scripts.choose.ROOT", tmp_path)
    monkeypatch.setattr("scripts.choose.VARIANTS", tmp_path / "conf" / "variant")
    return tmp_path / "conf" / "variant" / "chosen"


@pytest.mark.parametrize("argument", ["experiment=select", "records={}/results/paper"])
def test_command_writes_one_file_per_choice(argument, chosen, tmp_path, capsys):
    for run in TIES:
        write_record(tmp_path / "results" / "paper", run, None)
    assert main([argument.format(tmp_path)]) == 0
    written = {path.stem: yaml.safe_load(path.read_text()) for path in chosen.glob("*.yaml")}
    assert written.keys() == {"ties", "ties_0.1", "ties_0.2"}
    assert written["ties_0.1"]["method"] == {"density": 0.1, "lam": 2.0, "scope": "model"}
    printed = capsys.readouterr().out
    assert "ties_0.1: lam=2 is the largest tried" in printed
    assert "3 files in conf/variant/chosen" in printed


def test_folder_names_the_folder_of_variants(chosen, tmp_path):
    for run in TIES:
        write_record(tmp_path / "results" / "paper", run, None)
    assert main([f"records={tmp_path}/results/paper", "folder=chosen_other"]) == 0
    assert (chosen.parent / "chosen_other" / "ties.yaml").is_file()
    assert not chosen.exists()


def test_shares_can_be_left_out(chosen, tmp_path):
    for run in TIES:
        write_record(tmp_path / "results" / "paper", run, None)
    assert main([f"records={tmp_path}/results/paper", "shares=false"]) == 0
    assert [path.name for path in chosen.iterdir()] == ["ties.yaml"]


def test_damaged_record_stops_the_command_before_writing(chosen, tmp_path, capsys):
    for run in TIES:
        path = write_record(tmp_path, run, None)
    path.write_text("{")
    assert main([f"records={tmp_path}"]) == 1
    assert str(path) in capsys.readouterr().err
    assert not chosen.exists()


def test_folder_without_validation_runs_is_refused(tmp_path, capsys):
    assert main([f"records={tmp_path}"]) == 1
    assert "first python run.py -m experiment=select" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["experiment=slect"],
        ["records=/absent"],
        ["a=b", "c=d"],
        ["records=.", "folder=../x"],
        ["records=.", "shares=no"],
    ],
)
def test_invalid_arguments_print_the_usage(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: python -m scripts.choose experiment=NAME")


def test_chosen_overrides_stand_beside_the_method():
    text = '[{"match":"*.mlp.*","lam":0.3}]'
    by_tensor = made_up_run("task_arithmetic", {"lam": 0.5, "overrides": text}, 0.9)
    (choice,) = choose([arithmetic(0.4, 0.5), by_tensor])
    body = yaml.safe_load(config_text(choice))
    assert body["method"] == {"lam": 0.5}
    assert body["overrides"] == [{"match": "*.mlp.*", "lam": 0.3}]
