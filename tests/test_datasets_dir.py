"""Task data from a mirror, the Hub's cache or nowhere; nothing here asks the network."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from eval.datasets_dir import content_hash, data_of, overrides
from eval.task_manager import leaf_changes, leaves, task_manager
from tests.tiny_mirror import SUMS, TASKS, write_snapshot, write_sums, write_tasks

REAL = os.environ.get("SEME_DATASETS") or None


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "mirror").mkdir()
    write_sums(tmp_path / "mirror" / SUMS)
    return tmp_path / "mirror"


@pytest.fixture
def manager(tmp_path):
    return task_manager(write_tasks(tmp_path / "tasks"), list(TASKS))


def one_task(tmp_path, text):
    """An index of one task, t, whose file has the text."""
    return task_manager(write_tasks(tmp_path / "one", {"t": text}), ["t"])


def load(manager, task, entries):
    spec = {"group": "suite", "task": [{"task": task, **entries}]}
    return manager.load(spec)["tasks"][task]


def test_a_task_is_led_to_the_mirror_by_as_few_entries_as_it_takes(manager, mirror):
    folder = mirror / SUMS
    assert overrides(manager, "easy", mirror) == {
        "dataset_path": str(folder),
        "dataset_kwargs": {},  # without trust_remote_code
    }
    assert overrides(manager, "hard", mirror) == {
        "dataset_path": str(folder),
        "training_split": None,  # named, not needed and not there
    }
    assert overrides(manager, "lines", mirror) == {
        "dataset_kwargs": {"data_files": {"test": str(folder / "hard/test.jsonl")}}
    }


@pytest.mark.parametrize(("task", "n_documents"), [("easy", 2), ("hard", 1), ("lines", 1)])
@pytest.mark.parametrize("write", [write_snapshot, lambda root: write_sums(root / SUMS)])
def test_lm_eval_builds_the_task_from_either_layout(
    manager, tmp_path, task, n_documents, write
):
    write(tmp_path / "mirror")
    entries = overrides(manager, task, tmp_path / "mirror")
    assert len(load(manager, task, entries).eval_docs) == n_documents


def test_a_relative_mirror_is_made_absolute(manager, mirror, monkeypatch):
    monkeypatch.chdir(mirror.parent)
    assert overrides(manager, "easy", Path("mirror"))["dataset_path"] == str(mirror / SUMS)


def test_splits_are_the_scored_one_and_that_of_the_examples(manager, mirror):
    def splits(task, **changes):
        return data_of(manager, task, mirror, changes).splits

    assert splits("easy") == ("test", "train")
    assert splits("easy", fewshot_config={"split": "test"}) == ("test",)
    assert splits("hard") == ("test",)
    assert splits("hard", num_fewshot=2) == ("test", "train")
    assert splits("hard", num_fewshot=2, fewshot_config={"samples": [{}]}) == ("test",)
    assert splits("hard", test_split="dev") == ("dev",)
    assert splits("lines") == ("test",)


def test_a_split_that_is_needed_must_be_there(manager, mirror):
    with pytest.raises(ValueError, match=r"\['train'\] not in .*org/sums, .* \['test'\]"):
        overrides(manager, "hard", mirror, {"num_fewshot": 1})
    with pytest.raises(ValueError, match=r"\['dev'\] not in .* \['test', 'train'\]"):
        overrides(manager, "easy", mirror, {"test_split": "dev"})


def test_the_hash_is_of_the_bytes_that_the_task_reads(manager, mirror, tmp_path):
    before = content_hash(data_of(manager, "easy", mirror))
    write_snapshot(tmp_path / "other")
    assert content_hash(data_of(manager, "easy", tmp_path / "other")) == before
    write_snapshot(tmp_path / "hub")
    assert content_hash(data_of(manager, "easy", None)) == before
    readme = mirror / SUMS / "README.md"
    readme.write_text(readme.read_text() + "more")
    (mirror / SUMS / "hard/test.jsonl").write_text('{"a": 2, "target": 0}\n')
    assert content_hash(data_of(manager, "easy", mirror)) == before
    (mirror / SUMS / "easy/train.jsonl").write_text('{"a": 2, "target": 0}\n')
    assert content_hash(data_of(manager, "easy", mirror)) != before


def test_two_tasks_on_one_file_have_one_hash(manager, mirror):
    hard, lines = (content_hash(data_of(manager, task, mirror)) for task in ("hard", "lines"))
    assert hard == lines


def test_absent_data_come_with_the_command_that_fetches_them(manager, tmp_path):
    absent = data_of(manager, "easy", tmp_path)
    assert (absent.name, absent.place, absent.folder) == (SUMS, None, None)
    command = f"`hf download org/sums --repo-type dataset --local-dir {tmp_path}/org/sums`"
    assert command in absent.problem
    assert f"neither in {tmp_path}/org/sums nor" in absent.problem
    nowhere = data_of(manager, "lines", None)
    assert "`hf download org/sums --repo-type dataset`" in nowhere.problem
    with pytest.raises(ValueError, match="task lines needs the data set org/sums"):
        overrides(manager, "lines", None)
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\] of org/sums"):
        content_hash(absent)


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("piqa", "baber/piqa"),
        ("ybisk/piqa", "baber/piqa"),
        ("super_glue", "aps/super_glue"),
        ("truthful_qa", "truthfulqa/truthful_qa"),
        ("lukaemon/bbh", "SaylorTwift/bbh"),
    ],
)
def test_an_old_name_leads_to_today_s(tmp_path, monkeypatch, old, today):
    manager = one_task(tmp_path, f"dataset_path: {old}\ndataset_name: easy\ntest_split: test")
    assert f"hf download {today} " in data_of(manager, "t", tmp_path).problem
    write_sums(tmp_path / "mirror" / today)
    entries = overrides(manager, "t", tmp_path / "mirror")
    assert entries == {"dataset_path": str(tmp_path / "mirror" / today)}
    monkeypatch.setenv("SEME_ONLINE", "1")
    assert overrides(manager, "t", None) == {"dataset_path": today}


def test_a_gated_data_set_says_so(tmp_path):
    manager = one_task(tmp_path, "dataset_path: Idavidrein/gpqa\ntest_split: train")
    assert (
        "https://huggingface.co/datasets/Idavidrein/gpqa" in data_of(manager, "t", None).problem
    )


def test_data_sets_that_need_a_script_are_refused(manager, mirror):
    (mirror / SUMS / "sums.py").touch()
    problem = data_of(manager, "easy", mirror).problem
    assert "sums.py" in problem
    assert f"--revision refs/convert/parquet --local-dir {mirror / SUMS}`" in problem


def test_files_that_the_hub_converted_are_read(manager, tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "mirror" / SUMS / "easy" / split
        folder.mkdir(parents=True)
        pd.DataFrame({"a": [1, 2], "target": [0, 1]}).to_parquet(folder / "0000.parquet")
    entries = overrides(manager, "easy", tmp_path / "mirror")
    assert entries["dataset_name"] is None
    assert len(load(manager, "easy", entries).eval_docs) == 2


def test_another_layout_is_named(manager, mirror):
    (mirror / SUMS / "README.md").unlink()
    problem = data_of(manager, "easy", mirror).problem
    assert "configuration easy" in problem
    assert "'easy' not found" in problem
    with pytest.raises(ValueError, match=r"datasets_dir must be a folder, got .*/gone"):
        data_of(manager, "easy", mirror / "gone")


def test_own_functions_are_left_alone_and_lm_eval_s_are_refused(tmp_path, monkeypatch):
    manager = one_task(tmp_path, "custom_dataset: !function utils.load\ntest_split: test")
    own = data_of(manager, "t", None)
    assert (own.name, own.place, own.problem) == (None, "task", None)
    assert overrides(manager, "t", None) == {}
    monkeypatch.setattr("eval.datasets_dir.is_built_in", lambda _manager, _task: True)
    assert "custom_dataset" in data_of(manager, "t", None).problem


def test_a_task_that_is_a_class_is_refused(tmp_path):
    manager = one_task(tmp_path, "class: !function utils.Task")
    assert "written in Python" in data_of(manager, "t", None).problem


def test_files_of_one_s_own_are_read_where_they_are(tmp_path):
    folder = write_sums(tmp_path / "sums")
    manager = one_task(
        tmp_path, f"dataset_path: {folder}\ndataset_name: hard\ntest_split: test"
    )
    own = data_of(manager, "t", None)
    assert (own.place, own.folder, own.entries) == ("task", folder, {})
    assert content_hash(own)
    (folder / "hard/test.jsonl").unlink()
    assert "cannot be read" in data_of(manager, "t", None).problem


def test_a_whole_snapshot_in_the_hub_s_cache_stands_in_for_the_mirror(
    manager, mirror, tmp_path
):
    snapshot = write_snapshot(tmp_path / "hub")
    assert data_of(manager, "easy", mirror).place == "mirror"
    cached = data_of(manager, "easy", None)
    assert (cached.place, cached.folder) == ("cache", snapshot)
    assert overrides(manager, "hard", None)["dataset_path"] == str(snapshot)


def test_what_datasets_has_prepared_is_left_to_it_and_hashed_by_its_download(
    manager, mirror, tmp_path
):
    prepared = tmp_path / "prepared/org___sums/hard/0.0.0/c0ffee"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text(json.dumps({"config_name": "hard"}))
    snapshot = write_snapshot(tmp_path / "hub")
    for file in (snapshot / "easy").iterdir():
        file.unlink()  # datasets downloads one configuration
    cached = data_of(manager, "hard", None)
    assert (cached.place, cached.folder, cached.problem) == ("cache", None, None)
    assert cached.entries == {"training_split": None}
    assert content_hash(cached) == content_hash(data_of(manager, "hard", mirror))
    assert data_of(manager, "easy", None).place is None


def test_a_run_that_is_online_leaves_the_rest_to_the_hub(manager, tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_ONLINE", "1")
    online = data_of(manager, "easy", tmp_path)
    assert (online.place, online.problem) == ("hub", None)
    assert overrides(manager, "easy", tmp_path) == {"dataset_kwargs": {}}


@pytest.mark.skipif(REAL is None, reason="SEME_DATASETS is not set to a mirror")
@pytest.mark.parametrize(
    ("task", "n_documents"),
    [
        ("gsm8k", 1319),
        ("blimp_adjunct_island", 1000),
        ("mmlu_anatomy", 135),
        ("xcopa_it", 500),
        ("mgsm_direct_es", 250),
        ("bbh_cot_fewshot_boolean_expressions", 250),
        ("leaderboard_bbh_snarks", 178),
    ],
)
@pytest.mark.filterwarnings("default")  # lm-eval's own code
def test_tasks_of_lm_eval_are_built_from_a_real_mirror(task, n_documents):
    manager = task_manager(None, [task])
    entries = overrides(manager, task, Path(REAL))
    assert len(load(manager, task, entries).eval_docs) == n_documents


@pytest.mark.skipif(REAL is None, reason="SEME_DATASETS is not set to a mirror")
def test_groups_of_lm_eval_are_in_a_real_mirror_and_humaneval_lacks_its_metric():
    manager = task_manager(None, ["mmlu"])
    assert len(leaves(manager, "mmlu")) == 57
    for group in ("mmlu", "blimp"):
        for task, changes in leaf_changes(manager, group).items():
            assert data_of(manager, task, Path(REAL), changes).place == "mirror"
    assert data_of(manager, "humaneval", Path(REAL)).extras == ("metrics/code_eval",)
