"""The plan of a run whose suite needs data: a mirror that has them, one that lacks them, none."""

import subprocess
import sys

import pytest

from seme_bench.folders import HOME as ROOT
from seme_bench.planning import print_plan
from tests.configurations import composed
from tests.tiny_mirror import SUMS, write_sums, write_tasks

BASE = f"{ROOT}/eval/zoo/models/base"


@pytest.fixture(scope="module")
def config():
    return composed(
        "method=average", "tracker=none", "models=custom", f"models.pivot={BASE}",
        f"models.sources=[{BASE}]", "suite=tasks", "suite.tasks=[both]", "plan=true",
    )  # fmt: skip


@pytest.fixture
def plan(config, tmp_path, monkeypatch, capsys):
    """Print the plan over a mirror."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    write_tasks(tmp_path / "tasks", both__yaml="{group: both, task: [easy, hard]}")
    own = {"include_path": str(tmp_path / "tasks")}

    def run(mirror, **suite):
        entries = {**config["suite"], **(own | suite)}
        values = config | {"suite": entries, "datasets_dir": mirror}
        print_plan(values, "average", "average", root=ROOT)
        return capsys.readouterr().out

    return run


def test_data_of_the_mirror_are_there(plan, tmp_path):
    write_sums(tmp_path / "mirror" / SUMS)
    out = plan(str(tmp_path / "mirror"))
    assert f"mirror {tmp_path}/mirror" in out
    assert SUMS in out
    assert "hf download" not in out


def test_data_that_the_mirror_lacks_are_named_with_the_command(plan, tmp_path):
    (tmp_path / "mirror").mkdir()
    out = plan(str(tmp_path / "mirror"))
    assert "missing" in out
    place = f"--local-dir {tmp_path}/mirror/{SUMS}"
    assert out.count(f"hf download {SUMS} --repo-type dataset {place}\n") == 1


def test_a_backend_that_is_not_installed_is_named(plan, config, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.evaluator.find_spec", lambda _name: None)
    monkeypatch.setitem(config, "evaluator", {"name": "vllm"})
    (tmp_path / "mirror").mkdir()
    assert "'.[vllm]'" in plan(str(tmp_path / "mirror"))


@pytest.mark.slow
def test_a_ready_suite_without_a_mirror_and_without_a_network(tmp_path):
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "run.py"), "suite=openllm", "plan=true", "method=average",
            "tracker=none", f"output={tmp_path}", "datasets_dir=null",
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": "", "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    commands = [line for line in done.stdout.splitlines() if line.startswith("hf download")]
    assert len(commands) == 6
    assert "hf download openai/gsm8k --repo-type dataset" in commands
    assert "datasets_dir is not set" in done.stdout
