"""Fetching of a suite's data; the Hub is a folder."""

import pytest

from scripts.fetch import main
from tests.tiny_mirror import SUMS, write_sums, write_tasks


@pytest.fixture(autouse=True)
def suites(tmp_path, monkeypatch):
    """A repository of two suites over the tasks of the tiny mirror, and an empty cache."""
    monkeypatch.setattr("scripts.fetch.ROOT", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    write_tasks(tmp_path / "tasks", both__yaml="{group: both, task: [easy, hard]}")
    folder = tmp_path / "conf" / "suite"
    folder.mkdir(parents=True)
    text = "name: sums\ninclude_path: tasks\ntasks: [both, lines]\n"
    (folder / "sums.yaml").write_text(text)
    shots = "defaults: [sums, _self_]\ntasks: [{task: hard, num_fewshot: 1}]\n"
    (folder / "shots.yaml").write_text(shots)
    (folder / "none.yaml").write_text("name: none\ntasks: []\n")


@pytest.fixture
def hub(monkeypatch):
    """What was asked of the Hub; it has org/sums."""
    asked = []

    def download(name, *, repo_type, revision, local_dir):
        asked.append((name, repo_type, revision))
        if name != SUMS:
            raise OSError(f"no {name}")
        write_sums(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("SEME_ONLINE", "1")
    return asked


def test_offline_the_commands_are_printed(tmp_path, capsys):
    mirror = tmp_path / "mirror"
    assert main(["suite=sums", f"datasets_dir={mirror}"]) == 1
    out = capsys.readouterr().out
    commands = [line for line in out.splitlines() if line.startswith("hf ")]
    assert commands == [
        f"hf download org/sums --repo-type dataset --local-dir {mirror}/org/sums"
    ]
    assert "both, lines" in out
    assert not mirror.exists()


def test_online_what_is_absent_is_fetched_once(tmp_path, capsys, hub):
    arguments = ["suite=sums", f"datasets_dir={tmp_path / 'mirror'}"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert hub == [(SUMS, "dataset", None)]
    assert "mirror" in capsys.readouterr().out


def test_a_plan_is_the_table_alone(tmp_path, capsys, hub):
    assert main(["suite=sums", f"datasets_dir={tmp_path / 'mirror'}", "plan=true"]) == 0
    out = capsys.readouterr().out
    assert "Hub" in out
    assert "hf download" not in out
    assert hub == []


def test_a_download_that_was_begun_is_finished(tmp_path, hub):
    folder = tmp_path / "mirror" / SUMS
    (folder / ".cache/huggingface").mkdir(parents=True)
    assert main(["suite=sums", f"datasets_dir={tmp_path / 'mirror'}"]) == 0
    assert len(hub) == 1


def test_what_a_download_does_not_mend_is_said(tmp_path, capsys, hub):
    write_sums(tmp_path / "mirror" / SUMS)
    assert main(["suite=shots", f"datasets_dir={tmp_path / 'mirror'}"]) == 1
    assert "['train'] not in" in capsys.readouterr().err
    assert hub == []


def test_a_failed_download_is_named(tmp_path, capsys, hub):
    (tmp_path / "tasks" / "other.yaml").write_text("task: other\ndataset_path: org/other")
    arguments = ["suite=sums", "tasks=[other,easy]", f"datasets_dir={tmp_path / 'mirror'}"]
    assert main(arguments) == 1
    assert "org/other was not fetched: OSError: no org/other" in capsys.readouterr().err
    assert [name for name, *_ in hub] == ["org/other", SUMS]


def test_metrics_are_fetched_and_packages_are_named(tmp_path, capsys, monkeypatch, hub):
    lacking = ["absent", "metrics/code_eval"]
    monkeypatch.setattr("eval.datasets_dir.missing_extras", lambda *_: lacking)
    assert main(["suite=sums", "tasks=[easy]", f"datasets_dir={tmp_path / 'mirror'}"]) == 1
    assert hub == [(SUMS, "dataset", None), ("evaluate-metric/code_eval", "space", None)]
    assert "where the suite is run: pip install absent" in capsys.readouterr().out


def test_the_mirror_may_be_named_by_the_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SEME_DATASETS", str(tmp_path / "elsewhere"))
    assert main(["suite=sums"]) == 1
    assert f"{tmp_path}/elsewhere/org/sums" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite=sums"], "datasets_dir must be a folder for data sets"),
        (["datasets_dir=d"], "expected suite=NAME or tasks="),
        (
            ["suite=x", "datasets_dir=d"],
            "suite must be one of ['none', 'shots', 'sums'], got x",
        ),
        (["suite=none", "datasets_dir=d"], "expected a suite with tasks, got none"),
        (["suite=sums", "datasets_dir=d", "plan=maybe"], "plan must be true or false"),
        (["tasks=easy", "datasets_dir=d"], "tasks must be a list, [A,B], got 'easy'"),
        (["suites=sums"], "got suites=sums"),
        (["suite=sums", "tasks=[", "datasets_dir=d"], "usage: "),
    ],
)
def test_invalid_arguments_are_named(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("SEME_DATASETS", raising=False)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_unknown_task_comes_with_the_nearest_names(capsys):
    assert main(["suite=sums", "tasks=[eesy]", "datasets_dir=d"]) == 2
    assert "got eesy; did you mean easy" in capsys.readouterr().err
