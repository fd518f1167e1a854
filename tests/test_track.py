"""Command scripts.track, its offline W&B run read back."""

import json

import pytest
import wandb

from scripts.track import main
from tests.offline_runs import (
    artifact_files,
    read_back,
    run_and_summary,
    write_three,
)
from tests.tracked import texts_of_tensorboard

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@pytest.fixture
def root(tmp_path):
    return write_three(tmp_path / "results")


def test_tracked_run_has_table_figures_and_files(root, capsys):
    assert (
        main([f"output={root}", "tracker.wandb.project=boards", "tracker.wandb.tags=[a]"]) == 0
    )
    (records,) = read_back(root)
    run, summary = run_and_summary(records)
    assert (run.project, list(run.tags), run.job_type) == ("boards", ["a"], "leaderboard")
    (table,) = artifact_files(records, "run_table").values()
    assert len(json.loads(table)["data"]) == 3
    files = artifact_files(records, "leaderboard")
    for name in ("leaderboard.html", "leaderboard.csv", "leaderboard.md"):
        assert files[name] == (root / name).read_bytes()
    assert len([key for key in summary if key.startswith("figures/")]) > 0
    assert f"wandb sync {root}/wandb/offline-run-*" in capsys.readouterr().out


def test_several_trackers_get_the_leaderboard(root, capsys):
    assert main([f"output={root}", "tracker=[wandb,tensorboard]"]) == 0
    assert len(read_back(root)) == 1
    texts = texts_of_tensorboard(root)["leaderboard-results"]
    assert len(texts["leaderboard"].splitlines()) == 2 + 3
    out = capsys.readouterr().out
    assert "wandb sync" in out
    assert "tensorboard --logdir" in out


def test_wandb_failure_exits_with_one(root, capsys, monkeypatch):
    def fail(**_options):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    assert main([f"output={root}"]) == 1
    assert "no route to host" in capsys.readouterr().err


def test_damaged_record_is_reported_and_the_rest_logged(root, capsys):
    (root / "runs" / "dare-dare56789abc" / "record.json").write_text("{")
    assert main([f"output={root}"]) == 1
    assert "dare-dare56789abc" in capsys.readouterr().err
    (table,) = artifact_files(read_back(root)[0], "run_table").values()
    assert len(json.loads(table)["data"]) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["otput=x"], "otput=x"),
        (["tracker.wandb.mode=of"], "'of'"),
        (["tracker.mode=online"], "did you mean tracker.wandb.mode?"),
        (["tracker=[wandb,mlfow]"], "mlfow"),
        (["tracker=none"], "none"),
        (["tracker.tensorboard.tags=[x]"], "tracker.wandb.tags"),
        (["tracker.wandb.tags=[x"], "expected ',' or ']'"),
    ],
)
def test_invalid_argument_is_named(arguments, part, capsys):
    assert main(arguments) == 2
    assert part in capsys.readouterr().err


def test_an_absent_folder_is_named(tmp_path, capsys):
    assert main([f"output={tmp_path / 'gone'}"]) == 1
    assert "gone is absent" in capsys.readouterr().err
