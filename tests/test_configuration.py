"""Configurations as written: lookups, references that do not resolve, aliases, texts."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from eval.configuration import check_aliases, check_name, config_folders, plain_values


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


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(9), "a: &a [*a]", bomb(30)])
def test_files_that_grow_without_bound_are_refused(tmp_path, text):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"models/mine\.yaml has more than 100000 nodes"):
        check_aliases([tmp_path])


@pytest.mark.parametrize(
    "text", [bomb(3), "a: &a 1\nb: *a", "include: ['*']\nx: a & b *", "a: ["]
)
def test_other_files_pass(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    check_aliases([tmp_path])


def test_folders_of_the_command_line_are_checked_too():
    arguments = ["-m", "--config-dir=a", "-cd", "b", "tau=1"]
    assert config_folders(arguments, Path("/r/conf")) == [Path("/r/conf"), Path("a"), Path("b")]
