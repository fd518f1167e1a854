"""Packages, metrics and data that a task's code needs."""

import sys
from pathlib import Path

import evaluate
import nltk
import pytest

from eval.task_extras import how_to_get, local_extras, missing_extras
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
        (
            "from lm_eval.tasks.ifeval import instructions",
            ["immutabledict", "langdetect", "nltk_data/punkt_tab"],
        ),
        ("def fetch():\n    import absent\nfetch()", ["absent"]),
        ("def process(docs):\n    fetch()\ndef fetch():\n    import absent", ["absent"]),
        ("def fetch():\n    import absent\ndef another(docs):\n    fetch()", []),
        (
            "import nltk\ntry:\n    nltk.data.find('x')\nexcept LookupError:\n    nltk.download('x')",
            ["nltk_data/x"],
        ),
        ("import spacy\nspacy.load('xx_sm')", ["spacy", "spacy/xx_sm"]),
        (
            "import tinyBenchmarks",
            ["git+https://github.com/felipemaiapolo/tinyBenchmarks", "tinyBenchmarks.pkl"],
        ),
        ("import evaluate\nm = evaluate.load('pass_x')", ["metrics/pass_x"]),
    ],
)
def test_what_runs_is_needed_and_what_the_code_does_without_is_not(
    tmp_path, code, extras, monkeypatch
):
    monkeypatch.setattr("nltk.data.path", [])
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


def test_data_of_nltk_may_be_in_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])
    code = "import nltk\nnltk.download('punkt_x')"
    assert missing(tmp_path, code) == ["nltk_data/punkt_x"]
    folder = tmp_path / "mirror/nltk_data/tokenizers/punkt_x"
    folder.mkdir(parents=True, mode=0o755)
    assert missing(tmp_path, code, mirror=tmp_path / "mirror") == []
    with local_extras(tmp_path / "mirror"):
        assert nltk.data.path == [str(tmp_path / "mirror/nltk_data")]
        assert missing(tmp_path, code) == []
    assert nltk.data.path == []


METRIC = """
import datasets
import evaluate
class PassX(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, references):
        return {"pass_x": sum(references)}
"""


def test_metrics_of_the_mirror_are_loaded_and_the_folder_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [n for n in sys.modules if n.partition(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)  # of another folder
    script = tmp_path / "mirror/metrics/pass_x/pass_x.py"
    script.parent.mkdir(parents=True)
    script.write_text(METRIC)
    before, load = Path.cwd(), evaluate.load
    with local_extras(tmp_path / "mirror"):
        assert Path.cwd() == before
        metric = evaluate.load("pass_x", cache_dir=str(tmp_path / "cache"))
        assert metric.compute(references=[1, 2]) == {"pass_x": 3}
    assert evaluate.load is load
    with pytest.raises(KeyError), local_extras(tmp_path / "mirror"):
        raise KeyError
    assert evaluate.load is load
    with local_extras(tmp_path), local_extras(None):
        assert evaluate.load is load


def test_how_to_get_extras_is_a_command_each(tmp_path):
    assert how_to_get(["langdetect", "metrics/code_eval"], tmp_path) == [
        "pip install langdetect",
        f"hf download evaluate-metric/code_eval --repo-type space --local-dir "
        f"{tmp_path}/metrics/code_eval",
    ]
    (nltk_line,) = how_to_get(["nltk_data/punkt_tab"], tmp_path)
    command = f"python -m nltk.downloader -d {tmp_path}/nltk_data punkt_tab"
    assert nltk_line.startswith(command)
    assert "NLTK_DATA" in nltk_line
    (curl,) = how_to_get(["tinyBenchmarks.pkl"], None)
    assert curl.startswith("curl -LO https://raw.githubusercontent.com/")
    assert how_to_get(["spacy/xx_sm"], None) == ["python -m spacy download xx_sm"]
    assert "Hydra" in how_to_get(["antlr4-python3-runtime==4.11"], None)[0]
    assert how_to_get([], None) == []
