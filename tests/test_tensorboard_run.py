"""TensorBoard runs of the real client, read back with TensorBoard's own reader."""

import json
import socket

import pytest

from eval.tracking.tensorboard_run import check_entries, hint, set_aside
from tests.tracked import log, make_record, runs_of_tensorboard, texts_of_tensorboard

ENTRIES = {"tags": ["x"]}
RUN = "ties-ties56789abc"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def test_scores_runtime_and_memory_are_scalars(root):
    assert log("tensorboard", root, make_record(), ENTRIES) is None
    scalars = {
        tag: [event.value for event in run.Scalars(tag)]
        for run in runs_of_tensorboard(root).values()
        for tag in run.Tags()["scalars"]
    }
    assert scalars["score/code"] == [0.5]
    assert scalars["score/mean"] == [0.375]
    assert scalars["merge/seconds"] == [0.25]
    assert scalars["merge/peak_rss_bytes"] == [900.0]
    assert "status" not in scalars


def test_config_tags_group_and_table_are_texts(root):
    log("tensorboard", root, make_record(), ENTRIES)
    texts = texts_of_tensorboard(root)[RUN]
    config, about = (
        json.loads(texts[key].removeprefix("```\n").removesuffix("\n```"))
        for key in ("config", "about")
    )
    assert (config["method"], config["settings"], config["seed"]) == (
        "ties", {"density": 0.1}, 3,
    )  # fmt: skip
    assert (about["group"], about["kind"]) == ("sweep-7", "merge")
    assert about["tags"] == ["x", "ties", "zoo", "done"]
    assert about["summary"] == {"status": "done", "merge/source": "VmHWM"}
    header, _, first, second = texts["scores"].splitlines()
    assert header.startswith("| task | domain | score |")
    assert first == r"| code | code | 0.5 | 0.1 | 2 | acc | 0.5 |"
    assert second.startswith("| french | french | 0.25 |")


def test_settings_are_columns_of_the_hparams_page(root):
    from tensorboard.plugins.hparams import metadata  # noqa: PLC0415

    log("tensorboard", root, make_record(), ENTRIES)
    data = runs_of_tensorboard(root)[RUN].SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    hparams = metadata.parse_session_start_info_plugin_data(data.plugin_data.content).hparams
    assert hparams["settings.density"].number_value == 0.1
    assert hparams["method"].string_value == "ties"
    assert "fingerprint" not in hparams
    data = runs_of_tensorboard(root)[RUN].SummaryMetadata(metadata.EXPERIMENT_TAG)
    metrics = metadata.parse_experiment_plugin_data(data.plugin_data.content).metric_infos
    assert {"score/mean", "merge/seconds"} <= {metric.name.tag for metric in metrics}


def test_a_run_has_one_file_without_the_name_of_the_host(root):
    log("tensorboard", root, make_record(), ENTRIES)
    (file,) = (root / "tensorboard" / RUN).iterdir()
    assert file.name.startswith("events.out.tfevents.")
    assert socket.gethostname() not in file.name
    assert list((root / ".tensorboard").iterdir()) == []


def test_a_run_logged_again_replaces_its_folder(root):
    for value in (0.5, 0.75):
        log("tensorboard", root, make_record(value=value), ENTRIES)
    assert list(runs_of_tensorboard(root)) == [RUN]
    assert [e.value for e in runs_of_tensorboard(root)[RUN].Scalars("score/code")] == [0.75]


def test_a_run_that_fails_half_way_is_not_shown(root, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_text", fail)
    warning = log("tensorboard", root, make_record(), ENTRIES)
    assert warning.startswith("not logged to TensorBoard: OSError: [Errno 28] No space")
    assert not (root / "tensorboard").exists()
    (left,) = (root / ".tensorboard").iterdir()
    assert set_aside(root, left.name) == 1
    assert set_aside(root, left.name) == 0
    assert not left.exists()


def test_the_hint_names_the_folder(root):
    assert hint(root) is None
    log("tensorboard", root, make_record(), ENTRIES)
    assert hint(root).endswith(f"tensorboard --logdir {root}/tensorboard")


@pytest.mark.parametrize("entries", [{}, {"tags": "x"}, {"tags": [], "dir": "y"}, None])
def test_invalid_entries_are_refused(entries):
    with pytest.raises(ValueError, match=r"tracker\.tensorboard"):
        check_entries(entries)
