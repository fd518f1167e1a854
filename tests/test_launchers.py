"""Launchers: what is missing is named before anything starts; sweeps give equal records."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from eval import launchers as module
from eval.launchers import check_launcher, gives_no_gpus, is_alone
from scripts.kill_runs.results import results_of
from seme_bench.folders import HOME as ROOT
from tests.configurations import CONF
from tests.slurm_cluster import is_installed, slurm_cluster

FILES = {
    path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("hydra/launcher/*.yaml")
}
TWELVE = ["method=average,task_arithmetic,ties,dare,slerp,karcher", "seed=0,1"]
TWO = ["method=average,ties"]


@pytest.fixture(scope="module")
def pool(make_llama, tmp_path_factory):
    """Overrides of merges of two tiny models without an evaluation."""
    root = tmp_path_factory.mktemp("models")
    folders = [make_llama(root / name, seed) for seed, name in enumerate(("base", "code"))]
    return [
        "models=custom", f"models.pivot={folders[0]}", f"models.sources=[{folders[1]}]",
        "suite=none", "tracker=none", "device=cpu",
    ]  # fmt: skip


def begin(folder, pool, swept, *launcher, environment=None):
    """Start a sweep into a folder."""
    command = [
        sys.executable, str(ROOT / "run.py"), "-m", *swept, *pool, *launcher,
        f"output={folder}",
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment,
    )  # fmt: skip


def output_of(sweep):
    """What a sweep printed, when it has ended well."""
    stdout, stderr = sweep.communicate()
    assert sweep.returncode == 0, stderr[-2000:]
    return stdout


@pytest.fixture(scope="module")
def twelve(pool, tmp_path_factory):
    """Results folder of twelve cells in one process."""
    folder = tmp_path_factory.mktemp("alone")
    output_of(begin(folder, pool, TWELVE))
    return folder


def assert_as_alone(folder, alone, stdout, n_cells):
    """Check records, cells and summary against a sweep in one process."""
    assert results_of(folder) == results_of(alone)
    assert len(results_of(folder).records) == len(list(folder.glob("sweeps/*/*/cell.json")))
    assert f"{n_cells} runs, 0 failed, 0 not applicable" in stdout
    assert not list(folder.glob("*scratch*"))
    assert {path.suffix for path in folder.glob(".locks/*/*")} == {".free"}


def test_two_cells_through_joblib_are_as_in_one_process(pool, tmp_path):
    alone = begin(tmp_path / "alone", pool, TWO)
    through = begin(tmp_path / "out", pool, TWO, "hydra/launcher=joblib")
    output_of(alone)
    stdout = output_of(through)
    assert_as_alone(tmp_path / "out", tmp_path / "alone", stdout, 2)
    assert "2 cells go to joblib; what becomes of them: python -m scripts.status" in stdout


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["joblib", "submitit_local", "ray"])
def test_twelve_cells_through_a_launcher_are_as_in_one_process(pool, twelve, tmp_path, choice):
    if choice == "ray":  # its launcher is installed without constraints.txt
        pytest.importorskip("ray")
    stdout = output_of(begin(tmp_path, pool, TWELVE, f"hydra/launcher={choice}"))
    assert_as_alone(tmp_path, twelve, stdout, 12)


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="needs Debian's slurm-wlm and munge, and root")
def test_cells_through_slurm_are_as_in_one_process(pool, tmp_path):
    (tmp_path / "slurm").mkdir()
    launcher = [
        f"hydra.launcher.{line}"
        for line in ("partition=test", "cpus_per_task=1", "mem_gb=null", "array_parallelism=2")
    ]
    alone = begin(tmp_path / "alone", pool, TWO)
    output_of(alone)
    with slurm_cluster(tmp_path / "slurm") as environment:
        through = begin(
            tmp_path / "out", pool, TWO, "hydra/launcher=submitit_slurm", *launcher,
            environment=environment,
        )  # fmt: skip
        stdout = output_of(through)
    assert_as_alone(tmp_path / "out", tmp_path / "alone", stdout, 2)
    (script,) = tmp_path.glob("out/sweeps/*/.submitit/*/*_submission.sh")
    lines = script.read_text().splitlines()
    assert {"#SBATCH --partition=test", "#SBATCH --array=0-1%2"} <= set(lines)


@pytest.mark.parametrize("choice", sorted(FILES))
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(choice, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", absent)
    extra = choice.partition("_")[0]
    with pytest.raises(ValueError, match=rf"^hydra/launcher={choice} is not .*'\.\[{extra}\]'"):
        check_launcher(choice, FILES[choice], device="cpu")


def test_the_launcher_of_hydra_needs_nothing_and_runs_alone():
    basic = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    check_launcher("basic", basic, device="auto")
    assert is_alone(basic)
    assert is_alone({})
    assert not any(is_alone(entries) for entries in FILES.values())


def test_schedulers_give_their_workers_gpus_and_others_do_not():
    local = {choice for choice, entries in FILES.items() if gives_no_gpus(entries)}
    assert local == {"joblib", "submitit_local"}


@pytest.mark.parametrize(("n_jobs", "device", "fits"), [
    (2, "auto", True), (3, "auto", False), (3, "cpu", True), (-1, "cuda", False),
])  # fmt: skip
def test_more_workers_than_gpus_are_refused(n_jobs, device, fits, monkeypatch):
    monkeypatch.setattr(module, "distribution", lambda _: None)
    monkeypatch.setattr(module, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    entries = FILES["joblib"] | {"n_jobs": n_jobs}
    if fits:
        check_launcher("joblib", entries, device=device)
    else:
        n_workers = 8 if n_jobs == -1 else n_jobs
        with pytest.raises(ValueError, match=f"starts {n_workers} workers for 2 GPUs"):
            check_launcher("joblib", entries, device=device)


@pytest.mark.parametrize("choice", ["joblib", "submitit_local", "submitit_slurm"])
def test_a_file_has_every_entry_of_its_plugin(choice):
    plugin = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
    config = __import__(f"hydra_plugins.hydra_{plugin[choice]}_launcher.config", fromlist=["x"])
    name = {"joblib": "JobLibLauncherConf", "submitit_local": "LocalQueueConf"}
    fields = getattr(config, name.get(choice, "SlurmQueueConf")).__dataclass_fields__
    assert FILES[choice].keys() == fields.keys() - {"backend"}
    assert FILES[choice]["_target_"] == fields["_target_"].default
