"""Background writes to disk: one at a time, failures reported, left to nobody."""

import errno
import os
import threading

import pytest
import torch

from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writeback import Writeback
from seme.checkpoint.writer import CheckpointWriter


@pytest.fixture
def synced(monkeypatch):
    """Descriptors that were written to disk; each write waits for ``synced.go``."""

    class Synced(list):
        go = threading.Event()

        def __call__(self, descriptor):
            assert self.go.wait(30)
            self.append(descriptor)

    calls = Synced()
    monkeypatch.setattr(os, "fdatasync", calls, raising=False)
    return calls


def test_a_request_is_skipped_while_another_runs(synced):
    writeback = Writeback()
    writeback.request(3)
    writeback.request(4)
    synced.go.set()
    writeback.wait()
    writeback.request(5)
    writeback.close()
    assert synced == [3, 5]


def test_systems_without_fdatasync_write_nothing_early(monkeypatch):
    monkeypatch.delattr(os, "fdatasync", raising=False)
    writeback = Writeback()
    writeback.request(-1)
    writeback.wait()
    writeback.close()


def test_a_failure_is_raised_by_the_next_request_and_by_wait():
    for follow in (lambda it: it.request(-1), Writeback.wait):
        writeback = Writeback()
        writeback.request(10**6)  # no such descriptor
        writeback._executor.shutdown()
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            follow(writeback)


def writer_of(folder, model, n):
    layout = {"w": TensorSpec(dtype=torch.float32, shape=(n,))}
    return CheckpointWriter(
        folder,
        pivot=model("pivot", {"w": [0.0]}),
        layout=layout,
        config={},
        dtype=torch.float32,
    )


def test_writer_asks_once_for_16_mebibytes(model, tmp_path, synced):
    synced.go.set()
    values = torch.ones(1 << 20)
    with writer_of(tmp_path / "merged", model, 9 << 20) as writer:
        for start in range(9):
            writer.write("w", values, start << 20)
            writer._writeback.wait()
    assert len(synced) == 2


def test_a_disk_that_fails_in_the_background_fails_the_merge(model, tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail, raising=False)
    with (
        pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught,
        writer_of(tmp_path / "merged", model, 1 << 22) as writer,
    ):
        writer.write("w", torch.ones(1 << 22))
    assert caught.value.__notes__ == [f"while flushing {tmp_path / 'merged'} to disk"]
    assert not list(tmp_path.glob("*merged*"))


def test_an_interrupted_merge_waits_for_the_disk_and_leaves_nothing(model, tmp_path, synced):
    threading.Timer(0.2, synced.go.set).start()
    writer = writer_of(tmp_path / "merged", model, 1 << 23)
    writer.__enter__()
    writer.write("w", torch.ones(1 << 22))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(synced) == 1
    assert not list(tmp_path.glob("*merged*"))
