"""Configurations as written: lengths, lookups, references that do not resolve, texts."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from eval.configuration import check_lengths, check_name, plain_values


def config(**entries):
    values = {"tau": 0.1 + 0.2, "datasets_dir": "${oc.env:HOME,null}", "output": "out"}
    return OmegaConf.create({**values, **entries})


def test_values_are_resolved_and_sums_rounded():
    values = plain_values(config(method={"density": "${tau}"}))
    assert (values["tau"], values["method"]) == (0.3, {"density": 0.3})
    assert values["datasets_dir"] is not None


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ({"models": {"name": "${oc.env:HOME}"}}, "models.name"),
        ({"models": {"sources": ["a", "${oc.env:HOME}/b"]}}, "models.sources.1"),
        ({"models": {"name": "${hydra:runtime.cwd}"}}, "models.name"),
        ({"models": {"name": "${datasets_dir}"}}, "models.name"),
        ({"suite": {"name": "${oc.decode:${datasets_dir}}"}}, "suite.name"),
        ({"dtype": "${ oc.env:HOME}"}, "dtype"),
    ],
)
def test_lookups_that_a_record_would_keep_are_refused(entries, path):
    with pytest.raises(ValueError, match=f"^{path} must not look into the environment"):
        plain_values(config(**entries))


def test_lookups_that_no_record_keeps_are_resolved(monkeypatch):
    monkeypatch.setenv("TASKS", "mine")
    values = plain_values(config(suite={"include_path": "${oc.env:TASKS}", "name": "s"}))
    assert values["suite"]["include_path"] == "mine"


def test_a_reference_that_leads_nowhere_says_how_to_write_it_literally():
    with pytest.raises(ValueError, match=r"models.pivot cannot be resolved: .*'x'.*\\\$\{"):
        plain_values(config(models={"pivot": "/data/${x}/base"}))
    assert plain_values(config(models={"pivot": r"/data/\${x}"}))["models"] == {
        "pivot": "/data/${x}"
    }


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_texts_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"^models.sources.0 must"):
        plain_values(config(models={"sources": [text]}))


@pytest.mark.parametrize("name", [5, None, "", "a\nb", "\x1b[31m", "x" * 201])
def test_a_name_is_one_printable_line(name):
    with pytest.raises(ValueError, match=r"^suite.name must be "):
        check_name("suite.name", name)
    check_name("suite.name", "größe 2")


def test_an_override_of_8000_characters_is_the_longest():
    longest = "a.b=" + "1" * 7_996
    check_lengths(["method=ties", longest, "-m"])
    with pytest.raises(ValueError, match=r"^a\.b: an override may have 8,000 .* got 8,001"):
        check_lengths(["method=ties", f"{longest}1"])
    with pytest.raises(ValueError, match=r"^\\x1b1{96}: an override may have"):
        check_lengths(["\x1b" + "1" * 9_000])


def test_a_long_list_is_refused_at_once_and_read_from_a_file(repository, tmp_path):
    weights = [1.25] * 2_000
    command, shown = [sys.executable, "run.py", "method=average"], ["--cfg", "job"]
    done = subprocess.run(
        [*command, f"method.weights=[{','.join(map(str, weights))}]", *shown],
        cwd=repository, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "error: method.weights: an override may have 8,000 characters"
    )
    assert done.stderr.count("\n") == 1
    (tmp_path / "variant").mkdir()
    file = tmp_path / "variant" / "mine.yaml"
    file.write_text(f"# @package _global_\nmethod: {{weights: {weights}}}\n")
    done = subprocess.run(
        [*command, "variant=mine", f"--config-dir={tmp_path}", *shown],
        cwd=repository, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert OmegaConf.create(done.stdout).method.weights == weights
