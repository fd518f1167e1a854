"""Code version of a method, and the provenance in a record."""

import functools
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from seme import provenance
from seme.provenance import code_version, collect, git_state

METHOD = '''"""A method."""
from toy.steps import SCALE


def merge(pivot):
    """Scale it."""
    # why
    return pivot * SCALE
'''
STEPS = '"""Steps."""\nSCALE = 2\n"""The scale."""\n'


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package of two modules; returns a function that edits one and gives the version."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text(METHOD)
    (folder / "steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    merge = importlib.import_module("toy.method").merge

    def version(module="method", old="", new=""):
        file = folder / f"{module}.py"
        file.write_text(file.read_text().replace(old, new, 1))
        return code_version(merge)

    yield version
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("method", "# why", "# because"),
        ("method", '"""Scale it."""', '"""Multiply."""'),
        ("method", '    """Scale it."""\n', ""),
        ("method", '"""A method."""', '"""Another."""'),
        ("method", "pivot * SCALE", "pivot*SCALE"),
        ("steps", '"""The scale."""', '"""Number."""'),
    ],
)
def test_comments_docstrings_and_spacing_keep_the_code_version(toy, module, old, new):
    assert toy() == toy(module, old, new)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("method", "*", "+"),
        ("method", "pivot * SCALE", "SCALE * pivot"),
        ("steps", "SCALE = 2", "SCALE = 3"),
        ("steps", "SCALE = 2", "SCALE = 2.0"),
        ("steps", "SCALE = 2", "SCALE = None"),
    ],
)
def test_code_changes_in_imported_modules_change_the_version(toy, module, old, new):
    assert toy() != toy(module, old, new)


def test_unimported_modules_do_not_affect_the_version(toy, tmp_path):
    before = toy()
    (tmp_path / "toy/other.py").write_text("SCALE = 9\n")
    assert toy() == before
    assert toy("steps", "SCALE = 2", "from toy import other\nSCALE = 2") != before


def test_renamed_module_keeps_the_version(toy, tmp_path):
    before = toy()
    (tmp_path / "toy/steps.py").rename(tmp_path / "toy/parts.py")
    assert toy("method", "toy.steps", "toy.parts") == before
    assert toy("parts", "SCALE = 2", "SCALE = 3") != before


def test_split_and_sorted_imports_keep_the_version(toy, tmp_path):
    (tmp_path / "toy/steps.py").write_text("SCALE, SHIFT = 2, 3\n")
    both = toy("method", "import SCALE", "import SCALE, SHIFT")
    lines = "from toy.steps import SHIFT\nfrom toy.steps import SCALE"
    assert toy("method", "from toy.steps import SCALE, SHIFT", lines) == both
    assert toy("method", "import SHIFT", "import SHIFT as SHIFTED") != both


def test_code_of_a_package_and_its_relative_imports_counts(toy, tmp_path):
    folder = tmp_path / "toy/parts"
    folder.mkdir()
    (folder / "number.py").write_text("SCALE = 2\n")
    (folder / "__init__.py").write_text("from .number import SCALE\n")
    before = toy("method", "toy.steps", "toy.parts")
    (folder / "number.py").write_text("SCALE = 3\n")
    after = toy()
    assert after != before
    (folder / "__init__.py").write_text("from .number import SCALE\nSCALE += 1\n")
    assert toy() != after


def test_modules_outside_the_package_count_but_libraries_do_not(toy, tmp_path):
    (tmp_path / "toy_helper.py").write_text("SHIFT = 1\n")
    with_helper = toy(
        "method", "from toy", "import json\nfrom toy_helper import SHIFT\nfrom toy"
    )
    (tmp_path / "toy_helper.py").write_text("SHIFT = 2\n")
    assert toy() != with_helper
    code = "import numpy\nimport torch\n"
    assert len(provenance._codes("toy.method")) == 3
    toy("method", "import json\n", code)
    assert len(provenance._codes("toy.method")) == 3


@pytest.mark.parametrize("alias", ["", " as OTHER"])
def test_name_imported_from_another_module_changes_the_version(toy, tmp_path, alias):
    (tmp_path / "toy/other.py").write_text("SCALE = 9\nSHIFT = 1\n")
    lines = f"from toy.other import SCALE{alias}\nfrom toy.steps import SCALE\n"
    before = toy("method", "from toy.steps import SCALE\n", lines)
    swapped = f"from toy.steps import SCALE{alias}\nfrom toy.other import SCALE\n"
    assert toy("method", lines, swapped) != before


def test_name_taken_from_another_imported_module_changes_the_version(toy, tmp_path):
    (tmp_path / "toy/other.py").write_text("SCALE = 9\nSHIFT = 1\n")
    shifts = "from toy.other import SHIFT\nfrom toy.steps import SCALE\nSTEP = SCALE\n"
    (tmp_path / "toy/user.py").write_text(shifts)
    before = toy("method", "from toy.steps", "from toy.user import STEP\nfrom toy.steps")
    assert toy("method", "from toy.steps import SCALE", "from toy.other import SCALE") != before


def test_shared_code_is_versioned_by_numbers_version(toy):
    before = toy()
    shared = toy(
        "method", "from toy.steps", "from seme.checks import check_share\nfrom toy.steps"
    )
    assert shared != before
    assert toy("method", "seme.checks", "seme.elsewhere") == shared


def test_hyper_parameters_do_not_affect_the_code_version(toy):
    merge = sys.modules["toy.method"].merge
    assert code_version(functools.partial(merge, pivot=1)) == code_version(merge) == toy()
    assert len(toy()) == 16


def test_a_method_without_a_source_file_is_refused():
    with pytest.raises(ValueError, match="no source file for the module nowhere"):
        code_version(type("Made", (), {"__module__": "nowhere"}))


def test_provenance_has_versions_but_no_user_or_host(repository, monkeypatch):
    for name in ("platform.node", "socket.gethostname", "getpass.getuser"):
        monkeypatch.setattr(name, lambda: "of-this-machine")
    for name in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "of-this-machine")
    facts = collect()
    text = json.dumps(facts)
    assert facts["python"] == platform.python_version()
    assert facts["libraries"]["torch"].startswith("2.")
    assert set(facts["libraries"]) >= {"transformers", "lm_eval", "safetensors", "hydra-core"}
    assert facts["threads"] >= 1
    assert str(repository) not in text
    assert "of-this-machine" not in text


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    identity += ["-c", "commit.gpgsign=false"]
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", folder, *identity, *arguments]
    subprocess.run(command, check=True, capture_output=True, env=own)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_state_is_dirty_after_code_but_not_results_changes(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "one", "--no-verify")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "record.json").write_text("{}")
    state = git_state(tmp_path)
    assert (len(state["revision"]), state["dirty"]) == (40, False)
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path) == {"revision": state["revision"], "dirty": True}
    assert git_state(tmp_path / "results") is None
