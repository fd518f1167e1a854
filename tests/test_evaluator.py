"""Evaluators: entries, what they need, and their place in the contract."""

from dataclasses import replace

import pytest
import yaml

from eval.evaluator import Evaluator, evaluator_from_config
from eval.suite import Suite, SuiteTask
from tests.configurations import CONF

SUITE = Suite(name="s", tasks=(SuiteTask(task="a", domain="a"),))
VLLM = {"name": "vllm", "tensor_parallel_size": 2}


def test_entries_of_the_files_are_those_of_the_backends():
    files = {p.stem: yaml.safe_load(p.read_text()) for p in CONF.glob("evaluator/*.yaml")}
    assert {name: evaluator_from_config(entries) for name, entries in files.items()} == {
        "hf": Evaluator(),
        "vllm": Evaluator(name="vllm"),
    }


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("hf", "an evaluator is a mapping"),
        ({"processes": 2}, "an evaluator is a mapping"),
        ({"name": "vlm"}, r"must be one of \['hf', 'vllm'\], got 'vlm'"),
        ({"name": "vllm", "processes": 2}, r"evaluator=vllm: unknown entries \['processes'\]"),
        (
            {"name": "hf", "processes": 0},
            "processes must be a whole number of at least 1, got 0",
        ),
        (VLLM | {"gpu_memory_utilization": 2}, r"must be in \(0, 1\], got 2"),
    ],
)
def test_wrong_entries_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        evaluator_from_config(entries)


def test_an_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("eval.evaluator.find_spec", lambda _name: None)
    lacking = Evaluator(**VLLM).lacking()
    assert "package vllm" in lacking
    assert "'.[vllm]'" in lacking


@pytest.mark.parametrize(
    ("entries", "device", "message"),
    [
        (VLLM, "cpu", "evaluator=vllm needs device=cuda, got device=cpu"),
        (VLLM, "cuda", "tensor_parallel_size must be at most the number of GPUs, 1, got 2"),
        ({"processes": 2}, "cuda", "processes must be at most the number of GPUs, 1, got 2"),
    ],
)
def test_a_device_that_does_not_do_is_refused(entries, device, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=message):
        Evaluator(**entries).check_device(device)


def test_devices_that_do_pass(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    Evaluator(processes=8).check_device("cpu")
    Evaluator(processes=2).check_device("cuda")
    Evaluator(**VLLM).check_device("cuda")


def test_the_backend_is_part_of_the_contract_and_nothing_else_of_it():
    several = replace(SUITE, evaluator=Evaluator(processes=4))
    assert several.fingerprint() == SUITE.fingerprint()
    assert several.described() == SUITE.described()
    by_vllm = replace(SUITE, evaluator=Evaluator(name="vllm"))
    shared = replace(SUITE, evaluator=Evaluator(**VLLM))
    assert by_vllm.fingerprint() == shared.fingerprint() != SUITE.fingerprint()
    assert by_vllm.described()["evaluator"] == "vllm"
    assert "evaluator" not in SUITE.described()


def test_a_record_says_what_ran():
    described = Evaluator(processes=2).described("cpu")
    assert described.keys() == {"backend", "version", "device", "processes"}
    assert (described["backend"], described["device"]) == ("hf", "cpu")
    assert described["version"]
