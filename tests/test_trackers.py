"""Trackers of a configuration: one, several, none; clients that are not installed."""

import importlib.util

import pytest
from hydra.errors import ConfigCompositionException

from eval.tracking import trackers as module
from eval.tracking.trackers import TRACKERS, check_tracker, hints
from tests.configurations import CONF, composed


@pytest.fixture
def installed(monkeypatch):
    """Pretend that every client is installed, but for those that are given."""

    def install(*, without=()):
        monkeypatch.setattr(
            module.importlib.util,
            "find_spec",
            lambda name: (
                None if name in without else importlib.machinery.ModuleSpec(name, None)
            ),
        )

    install()
    return install


def tracker_of(*overrides):
    return composed(*overrides)["tracker"]


@pytest.mark.usefixtures("installed")
def test_every_tracker_has_a_file_that_is_valid():
    names = {path.stem for path in (CONF / "tracker").iterdir()}
    assert names == {*TRACKERS, "none"}
    for name in names:
        tracker = tracker_of(f"tracker={name}")
        assert list(tracker) == [name]
        check_tracker(tracker)


def test_wandb_offline_is_the_default():
    assert tracker_of()["wandb"]["mode"] == "offline"


@pytest.mark.usefixtures("installed")
def test_several_trackers_are_a_list_of_the_group():
    tracker = tracker_of("tracker=[wandb,tensorboard]", "tracker.wandb.mode=online")
    assert list(tracker) == ["wandb", "tensorboard"]
    assert tracker["wandb"]["mode"] == "online"
    check_tracker(tracker)


def test_entries_are_under_the_name_of_the_tracker():
    with pytest.raises(ConfigCompositionException, match=r"Could not override 'tracker\.mode'"):
        composed("tracker.mode=online")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["tracker=[none,wandb]"], "tracker=none goes alone, got it beside wandb"),
        (["+tracker.none.mode=online", "tracker=none"], "tracker.none has no entries"),
        (["+tracker.mlfow.tags=[]"], "there is no tracker 'mlfow', .*; did you mean mlflow?"),
        (["tracker=mlflow", "tracker.mlflow.uri=mlruns"], "tracker.mlflow.uri must be http"),
        (["tracker=[]"], "missing|must be one of wandb, mlflow, tensorboard, none"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_invalid_trackers_are_refused(overrides, part):
    with pytest.raises(ValueError, match=part):
        check_tracker(composed(*overrides).get("tracker"))


@pytest.mark.parametrize(
    ("name", "package"),
    [("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("tensorboard", "tensorboard")],
)
def test_a_client_that_is_not_installed_is_named_with_the_extra(name, package, installed):
    installed(without=[package])
    with pytest.raises(ValueError, match=f"tracker={name} needs {package}, not") as caught:
        check_tracker(tracker_of(f"tracker=[wandb,{name}]"))
    assert f"pip install -e '.[{name}]'" in str(caught.value)
    check_tracker(tracker_of("tracker=wandb"))


def test_there_are_hints_for_trackers_that_have_runs(tmp_path):
    assert hints(tmp_path) == []
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/mlflow.db").touch()
    mlflow, tensorboard = hints(tmp_path)
    assert "mlflow ui" in mlflow
    assert "tensorboard --logdir" in tensorboard
