"""One GPU for each worker process of this machine, told by a stub: no GPU is needed."""

import subprocess
import sys

import pytest
import torch

from eval import gpus as module
from eval.gpus import take_gpu, visible_gpus

WORKER = """
import os, sys
from pathlib import Path
from eval.gpus import take_gpu
say = lambda text: print(text, flush=True)
take_gpu(Path(sys.argv[1]), say=say)
take_gpu(Path(sys.argv[1]), say=say)  # the next cell of this process
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def worker(tmp_path):
    """Start a worker of a machine with the GPUs 4 and 7."""
    children = []

    def start():
        child = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"CUDA_VISIBLE_DEVICES": "4,7", "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_each_worker_has_a_gpu_of_its_own_and_the_next_one_waits(worker):
    first, second = worker(), worker()
    assert sorted(w.stdout.readline() for w in (first, second)) == ["4\n", "7\n"]
    third = worker()
    assert third.stdout.readline() == "waits for one of 2 GPUs, which other workers have\n"
    first.kill()
    first.wait()
    assert third.stdout.readline() in ("4\n", "7\n")


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("GPU-a1, GPU-b2", ["GPU-a1", "GPU-b2"]),
        ("", []),
        ("1,-1,2", ["1"]),
    ],
)
def test_gpus_are_those_that_the_environment_names(named, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_without_names_all_gpus_are_counted(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_gpus() == ["0", "1", "2"]


def test_without_gpus_nothing_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    take_gpu(tmp_path, say=print)
    assert list(tmp_path.iterdir()) == []
    assert module._held == []
