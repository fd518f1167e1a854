"""Faults injected into a merge: error with file and tensor, no partial output."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch

from baselines.ties import merge as ties
from seme.checkpoint.reader import open_checkpoint

TIES = partial(ties, density=0.5, lam=1.0, scope="model", trim_ties="exact")
LARGE = 300_000


@pytest.fixture
def pair(model):
    """A pivot and a source of two tensors, the second of several blocks."""
    rng = torch.Generator().manual_seed(0)
    tensors = [
        {"a": torch.randn(8, generator=rng), "b": torch.randn(LARGE, generator=rng)}
        for _ in range(2)
    ]
    return model("p", tensors[0]), model("s", tensors[1])


def entries_in(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def notes(error):
    return "\n".join(error.value.__notes__)


def test_file_size_limit_names_the_output_and_leaves_no_files(pair, merge, tmp_path):
    # the system refuses to let any file grow beyond half of the output
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE * 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            merge(TIES, *pair)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert f"while writing the header of {tmp_path}" in notes(error)
    assert entries_in(tmp_path) == ["p", "s"]


def test_unopenable_shard_is_reported_with_the_tensor(pair, merge, tmp_path, monkeypatch):
    real, broken = os.open, str(tmp_path / "s")

    def failing(path, *arguments, **options):
        if str(path).startswith(broken) and str(path).endswith(".safetensors"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(PermissionError, match=r"s/model\.safetensors") as error:
        merge(TIES, *pair)  # in its preparation
    assert notes(error) == "while opening a"
    assert entries_in(tmp_path) == ["p", "s"]


def test_full_disk_is_reported_with_the_tensor_and_leaves_no_files(
    pair, merge, tmp_path, monkeypatch
):
    real = os.pwrite

    def filling(descriptor, data, offset):
        # no room behind the middle of b: which thread writes first makes no difference
        if offset > LARGE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, bytes(data[:50_001]), offset)  # in odd pieces

    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(OSError, match="No space left on device") as error:
        merge(TIES, *pair)
    assert f"while writing b to {tmp_path / 'merged'}" in notes(error)
    assert entries_in(tmp_path) == ["p", "s"]


def test_short_writes_are_continued(pair, merge, monkeypatch):
    whole, _ = merge(TIES, *pair, folder="whole")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:9_999]), at))
    pieces, _ = merge(TIES, *pair, folder="pieces")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_unreadable_shard_is_reported_with_the_tensor(pair, merge, tmp_path, monkeypatch):
    real, n_left = os.preadv, iter(range(5))

    def failing(descriptor, buffers, offset):
        if next(n_left, None) is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="Input/output error") as error:
        merge(TIES, *pair)
    assert re.search(r"while reading [ab] of .*/[ps]/model.safetensors", notes(error))
    assert entries_in(tmp_path) == ["p", "s"]


def test_file_truncated_after_opening_is_reported_with_the_tensor(pair, merge, tmp_path):
    file = tmp_path / "s" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 5)
    with pytest.raises(ValueError, match=r"s/model.safetensors has become shorter") as error:
        merge(partial(ties, density=0.5, lam=1.0, scope="tensor", trim_ties="exact"), *pair)
    assert f"while reading b of {file}\nwhile merging b with shape ({LARGE},)" == notes(error)
    assert entries_in(tmp_path) == ["p", "s"]


@pytest.mark.usefixtures("pair")
def test_truncated_file_is_refused_at_opening(tmp_path):
    file = tmp_path / "s" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 5)
    with pytest.raises(ValueError, match=r"s/model.safetensors is truncated or damaged"):
        open_checkpoint("s", root=tmp_path)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda h: h.replace(b'"data_offsets":[0,', b'"data_offsets":[1,'), "gives a 31 bytes"),
        (lambda h: h.replace(b"[32,1200032]", b"[36,1200036]"), "b has a gap: byte"),
        (lambda h: h.replace(b'"shape":[8]', b'"shape":[9]'), "a 32 bytes, but shape .9."),
        (lambda h: h.replace(b'"shape":[8]', b'"shape":[-8]'), "malformed entry for a"),
        (lambda h: h.replace(b'"F32"', b'"F99"', 1), "has dtype F99"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_invalid_header_is_refused_with_file_and_tensor(tmp_path, corrupt, message):
    file = tmp_path / "s" / "model.safetensors"
    content = file.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = corrupt(content[8:size])
    assert header != content[8:size]
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[size:])
    with pytest.raises(
        ValueError, match=f"s/model.safetensors.*{message}|in .*s/model.*{message}"
    ):
        open_checkpoint("s", root=tmp_path)


KILLED = """
    import os, signal, sys
    from functools import partial
    from pathlib import Path
    from baselines.average import merge
    from seme.engine import merge_checkpoints
    from seme.checkpoint.reader import open_checkpoint
    from tests.settings import SETTINGS

    root, call, n_left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    real = getattr(os, call)

    def deadly(*arguments, **options):
        global n_left
        n_left -= 1
        if n_left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, call, deadly)
    pivot, source = (open_checkpoint(name, root=root) for name in "ps")
    method, merged = partial(merge, weights=None), root / "merged"
    merge_checkpoints(method, pivot, [source], merged, settings=SETTINGS, progress=False)
"""


@pytest.mark.parametrize(
    ("call", "n_before", "whole"),
    [
        ("pwrite", 0, False),
        ("pwrite", 3, False),
        ("fsync", 1, False),
        ("rename", 0, False),
        ("fsync", 3, True),
    ],
)
def test_killed_merge_leaves_an_absent_or_complete_folder(
    pair, merge, repository: Path, tmp_path, call, n_before, whole
):
    # files are flushed, then the folder; then it is renamed, then its parent is flushed
    program = textwrap.dedent(KILLED)
    command = [sys.executable, "-c", program, str(tmp_path), call, str(n_before)]
    done = subprocess.run(command, cwd=repository, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "merged").exists() == whole
    if whole:
        merged = open_checkpoint("merged", root=tmp_path)
        assert torch.equal(merged.read("a"), pair[1].read("a"))
        return
    assert len(entries_in(tmp_path)) == 3
    merge(TIES, *pair)
    assert entries_in(tmp_path) == ["merged", "p", "s"]
