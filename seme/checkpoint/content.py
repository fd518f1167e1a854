"""Content hashes of several models at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.reader import Checkpoint

_N_THREADS = 4
"""Enough to keep a disk busy; from memory, two threads are as fast (ours, measured)."""


def content_hashes(checkpoints: Sequence[AnyCheckpoint]) -> list[str]:
    """Hash several models side by side: reading and hashing release Python's global lock.

    A folder is hashed once, however often it stands there or is the base of adapters.

    Args:
        checkpoints: The models, any number.

    Returns:
        What ``content_hash()`` of each gives, in their order.

    Raises:
        ValueError: If a file has become shorter since its header was read.
    """
    folders = {
        found.path.resolve(): found
        for found in (
            model if isinstance(model, Checkpoint) else model.base for model in checkpoints
        )
    }
    with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="seme-hash") as pool:
        hashes = dict(
            zip(folders, pool.map(Checkpoint.content_hash, folders.values()), strict=True)
        )
    return [
        hashes[model.path.resolve()]
        if isinstance(model, Checkpoint)
        else model.content_hash_on(hashes[model.base.path.resolve()])
        for model in checkpoints
    ]
