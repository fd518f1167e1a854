"""The command seme-bench: its entry point from another folder, what the package holds, help."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from scripts.console import RUNS, SCRIPTS
from tests.configurations import CONF

ENTRY = (
    "import sys; from scripts.console import main; sys.argv[0] = 'seme-bench'; sys.exit(main())"
)


@pytest.fixture
def console(repository, tmp_path):
    """Run the command in an empty folder as an installed one runs: by its entry point."""

    def run(*arguments, **variables):
        environment = os.environ | {"PYTHONPATH": str(repository), **variables}
        return subprocess.run(
            [sys.executable, "-c", ENTRY, *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
        )  # fmt: skip

    return run


def test_entry_point_is_the_console_s_main(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"seme-bench": "scripts.console:main"}


def test_the_package_holds_what_a_run_reads(repository):
    # as setuptools maps and globs them, without a build
    tool = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    folders, globs = tool["setuptools"]["package-dir"], tool["setuptools"]["package-data"]
    packed = {
        path.relative_to(repository)
        for package, patterns in globs.items()
        for pattern in patterns
        for path in (repository / folders.get(package, package.replace(".", "/"))).glob(pattern)
    }
    needed = {
        path.relative_to(repository)
        for pattern in ("conf/**/*.yaml", "eval/zoo/models/*/*.*", "eval/zoo/tasks/*", "eval/groups/*",
                        "results/reference/*.yaml", "*/py.typed")
        for path in repository.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }  # fmt: skip
    assert needed - packed == set()
    assert len(needed) > 150


def test_help_names_every_command(console):
    done = console()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in (*RUNS, *SCRIPTS))


def test_unknown_command_is_an_error_with_the_nearest(console):
    done = console("mehtods")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("; did you mean methods?\n")
    assert done.stderr.startswith("error: there is no command mehtods, only merge, ")


def test_a_merge_writes_its_record_into_the_current_folder(console, make_llama, tmp_path):
    for seed, name in enumerate(("base", "code")):
        make_llama(tmp_path / name, seed)
    pool = ["models=custom", "models.pivot=base", "models.sources=[code]", "suite=none"]
    done = console(
        "merge", "method=ties", "tau=0.3", *pool, "tracker=none", "merged_dir=merged"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "ties  merging 1 source"
    assert done.stdout.splitlines()[1].endswith("  written to merged")
    (path,) = tmp_path.glob("results/runs/ties-*/record.json")
    record = json.loads(path.read_text())
    assert record["models"]["pivot"]["location"] == "base"
    assert record["settings"]["density"] == 0.3
    assert (tmp_path / "merged/model.safetensors").is_file()
    (log,) = tmp_path.glob("results/sweeps/*/run.log")
    assert [line[21:] for line in log.read_text().splitlines()] == done.stdout.splitlines()


def test_the_embedded_models_are_found_from_any_folder(console, tmp_path):
    done = console("plan", "method=ties", "models=zoo", "suite=zoo", "tracker=none")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,568,160 parameters" in done.stdout
    done = console("plan", "models=smol", "suite=none", "tracker=none")
    if done.returncode:  # where it was not fetched
        expected = f"eval/smol/base is neither in {tmp_path} nor in the installed package"
        assert done.stderr.startswith(f"error: {expected}")


def test_commands_and_overrides_are_completed(console):
    def completed(line):
        done = console("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    assert completed("seme-bench me") == [*RUNS, *SCRIPTS]
    assert completed("seme-bench sweep method=ti") == ["method=ties"]
    assert completed("seme-bench leaderboard ou") == []
    script = console("-sc", "install=bash").stdout
    assert script.rstrip().endswith("-F hydra_bash_completion seme-bench")


def test_help_of_a_run_fits_a_screen_and_names_what_is_there(repository, console):
    command = [sys.executable, str(repository / "run.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.rstrip().splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    text = " ".join(done.stdout.split())
    for group in ("method", "suite", "evaluator", "tracker", "experiment"):
        names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        assert f"{group} {', '.join(names)}" in text
    for choice in ("models/zoo", "models/smol", "models/custom", "variant/chosen/ties"):
        assert (CONF / f"{choice}.yaml").is_file()
    ours = console("merge", "--help").stdout
    assert (
        ours.replace("seme-bench merge", "python run.py")
        .replace("seme-bench sweep", "python run.py -m")
        .strip()
        == done.stdout.strip()
    )
    # Hydra's completion looks for this text in a file before it completes its arguments
    assert "@hydra.main" in (repository / "run.py").read_text(encoding="utf-8")
