"""Fuzzing of the readers: valid folders are read, mutated ones read or refused as promised."""

import argparse
import os
import sys

import pytest

from scripts.fuzz.mutations import Folder, _is_small_tree
from scripts.fuzz.readers import Bench, ViolationError
from scripts.fuzz.runner import _outcomes, fuzz, report


@pytest.fixture
def _offline(tmp_path, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def bench(tmp_path, _offline):
    root = tmp_path / "fuzz"
    root.mkdir()
    return Bench(root)


def test_every_valid_folder_is_read(bench):
    for target, files in bench.targets.items():
        bench.check(target, Folder(dict(files), {}))
    assert bench.counts.results == dict.fromkeys(bench.targets, 1)
    assert bench.counts.refusals == {}


@pytest.mark.parametrize(
    ("read", "violation"),
    [
        (lambda _path: {}["x"], "KeyError: 'x'"),
        (lambda path: int(f"x{path}"[0]), "does not name the folder"),
        (lambda path: (path / "config.json").read_bytes().decode("ascii", 5), "TypeError"),
        (lambda path: (path.parent / "outside" / "secret").read_bytes(), "opened .*/secret"),
        (lambda _path: bytearray(os.urandom(1)) * 300_000_000, "MB beyond the files' size"),
        (lambda path: [f"{path}"] * len("x".join(map(str, range(800_000)))), "took"),
    ],
)
def test_what_breaks_the_property_is_found(bench, monkeypatch, read, violation):
    monkeypatch.setattr(bench, "_read_model", read)
    most_seconds = 0.05 if violation == "took" else 9
    monkeypatch.setattr("scripts.fuzz.readers.MAX_SECONDS", most_seconds)
    with pytest.raises(ViolationError, match=violation):
        bench.check("model llama", Folder(dict(bench.targets["model llama"]), {}))


@pytest.mark.usefixtures("_offline")
def test_mutated_folders_are_read_or_refused(tmp_path):
    counts, violations = fuzz(tmp_path, first_seed=0, n_cases=150, seconds=20)
    assert violations == []
    assert "cases in 1 s" in report(counts, 1)
    assert 0 < counts.n_cases <= 150


@pytest.mark.slow
@pytest.mark.usefixtures("_offline")
def test_mutated_folders_for_20_seconds(tmp_path, capsys):
    counts, violations = fuzz(tmp_path, first_seed=10**6, n_cases=10**6, seconds=20)
    with capsys.disabled():
        sys.stdout.write(f"\n{report(counts, 20)}\n")
    assert violations == []


def test_documents_that_cannot_be_written_out_are_not_edited():
    part, deep, cycle = [1], [], {}
    for _ in range(100):
        deep = [deep]
    cycle["a"] = [cycle]
    assert [_is_small_tree(d) for d in ({"a": [1, [2]]}, 5, [part, part], deep, cycle)] == [
        True, True, False, False, False,
    ]  # fmt: skip


def _die(*_):
    os._exit(1)


def test_a_process_that_dies_is_reported_with_its_case(monkeypatch, tmp_path):
    roots = [tmp_path / "0"]
    roots[0].mkdir()
    (roots[0] / "case.txt").write_text("seed 1, recipe:")
    monkeypatch.setattr("scripts.fuzz.runner._in_process", _die)
    with pytest.raises(SystemExit, match=r"a process died.*\nseed 1, recipe:"):
        _outcomes(roots, argparse.Namespace(seed=0, cases=1, seconds=1.0, only=""))
