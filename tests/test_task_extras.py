"""Packages and metrics that a task's code needs."""

from pathlib import Path

import pytest

from eval.task_extras import how_to_get, local_metrics, missing_extras
from eval.task_manager import task_manager
from tests.tiny_mirror import write_tasks

TASK = {"t": "dataset_path: org/sums\ntest_split: test\nprocess_docs: !function utils.process"}


def missing(tmp_path, code, *, task=TASK, mirror=None, **files):
    """Extras missing for task t, whose utils.py is the code."""
    folder = write_tasks(tmp_path / "tasks", task, utils__py=code, **files)
    return missing_extras(task_manager(folder, ["t"]), "t", mirror)


@pytest.mark.parametrize(
    ("code", "extras"),
    [
        ("import math, yaml, numpy.linalg", []),
        ("import absent.part\nfrom gone import x", ["absent", "gone"]),
        ("try:\n    import absent\nexcept ImportError:\n    raise ValueError", ["absent"]),
        ("try:\n    import absent\nexcept ImportError:\n    absent = None", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import absent", []),
        ("def process(docs):\n    import absent", ["absent"]),
        ("def another(docs):\n    import absent", []),
        ("from .beside import x", ["gone"]),
        ("from . import beside", ["gone"]),
        ("from lm_eval.tasks.ifeval import instructions", ["immutabledict", "langdetect"]),
        ("import tinyBenchmarks", ["git+https://github.com/felipemaiapolo/tinyBenchmarks"]),
        ("import evaluate\nm = evaluate.load('pass_x')", ["metrics/pass_x"]),
    ],
)
def test_what_runs_is_needed_and_what_the_code_does_without_is_not(tmp_path, code, extras):
    found = missing(tmp_path, code, beside__py="import gone")
    assert [e for e in extras if not importable(e)] == found


def importable(extra):
    """True where a package of the expected list happens to be installed."""
    try:
        __import__(extra)
    except ImportError:
        return False
    return True


def test_the_code_is_not_run(tmp_path):
    assert missing(tmp_path, "raise SystemExit") == []


def test_sympy_s_latex_parser_needs_a_version_of_antlr(tmp_path, monkeypatch):
    code = "import antlr4\nfrom sympy.parsing.latex import parse_latex"
    monkeypatch.setattr("eval.task_extras.version", lambda _name: "4.9.3")
    assert missing(tmp_path, code) == ["antlr4-python3-runtime==4.11"]
    monkeypatch.setattr("eval.task_extras.version", lambda _name: "4.11.1")
    assert missing(tmp_path, "from sympy.parsing.latex import parse_latex") == []


def test_a_metric_may_be_in_the_mirror_or_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    code = "import evaluate\nevaluate.load('pass_x')"
    assert missing(tmp_path, code) == ["metrics/pass_x"]
    script = tmp_path / "mirror" / "metrics" / "pass_x" / "pass_x.py"
    script.parent.mkdir(parents=True)
    script.touch()
    assert missing(tmp_path, code, mirror=tmp_path / "mirror") == []
    cache = tmp_path / "home/modules/evaluate_modules/metrics/evaluate-metric--pass_x/ab"
    cache.mkdir(parents=True)
    script.rename(cache / "pass_x.py")
    assert missing(tmp_path, code) == []


def test_a_metric_may_be_named_in_the_task_s_file(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, more in {"t": "", "u": "process_results: !function utils.score\n"}.items():
        text = f"task: {name}\n{more}metric_list: [{{metric: pass_x, hf_evaluate: true}}]"
        (folder / f"{name}.yaml").write_text(text)
    manager = task_manager(folder, ["t"])
    assert missing_extras(manager, "t") == ["metrics/pass_x"]
    assert missing_extras(manager, "u") == []  # scored by its own function


def test_metrics_of_the_mirror_are_found_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror" / "metrics").mkdir(parents=True)
    with local_metrics(tmp_path / "mirror"):
        assert Path.cwd() == tmp_path / "mirror" / "metrics"
    with local_metrics(tmp_path), local_metrics(None):
        assert Path.cwd() == tmp_path


def test_how_to_get_extras_is_a_command_each(tmp_path):
    assert how_to_get(["langdetect", "metrics/code_eval"], tmp_path) == [
        "pip install langdetect",
        f"hf download evaluate-metric/code_eval --repo-type space --local-dir "
        f"{tmp_path}/metrics/code_eval",
    ]
    assert "Hydra" in how_to_get(["antlr4-python3-runtime==4.11"], None)[0]
    assert how_to_get([], None) == []
