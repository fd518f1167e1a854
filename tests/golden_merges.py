"""Hashes of what every method in conf/method merges small fixed pools into.

python -m tests.golden_merges

renews tests/golden.json: it adds methods and pools, and replaces entries only where
NUMBERS_VERSION has been raised. A pool whose weights are changed needs another name.
Where one method's own file or settings are changed on purpose, and nothing that methods share,
remove its entry and renew: the version stays, and with it the records of the other methods.

In the pools of one frame every bit of the result is certain, and hashes are compared. A source
in another frame is brought back by linear algebra, whose last bits depend on the processor, and
spectral methods decompose matrices: projections of the merged tensors are compared within
TOLERANCE.
"""

import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import Tensor

from baselines.seme_directions import is_two_dimensional
from baselines.task_matrices import is_matrix
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.interface import traits_of
from seme.provenance import NUMBERS_VERSION
from tests.configurations import CONF, assembled
from tests.golden_pools import POOLS, words, write_pool
from tests.settings import SETTINGS

GOLDEN = Path(__file__).with_name("golden.json")
RENEW = "python -m tests.golden_merges"
N_PROJECTIONS = 3
TOLERANCE = 1e-4
"""Largest difference of a projection, absolute.

Between instruction sets (SSE4.2, AVX2, AVX-512) they differ by 2e-7. A single element that is
selected or erased differently changes every projection of its tensor by more than 3e-3, and a
scale that is off by a thousandth changes the largest tensors' by 2e-4.
"""

GIVEN: Mapping[str, Mapping[str, Any]] = {"mwa": {"values": [2.0, 1.0]}}
"""Method to what a run must give it; a list is of two sources."""
Entry = str | list[float]
"""A tensor's hash or, in a turned pool, its projections."""
Merges = dict[str, dict[str, dict[str, Entry]]]
"""Method, pool and tensor to entry."""


def method_names(conf: Path = CONF) -> list[str]:
    """List the files in conf/method, without their suffix."""
    return sorted(path.stem for path in (conf / "method").glob("*.yaml"))


@cache
def method_of(name: str, conf: Path = CONF) -> partial[Tensor]:
    """Bind a method to the hyper-parameters of its file, and to those a run must give it."""
    method: partial[Tensor] = instantiate(assembled(f"method={name}", conf=conf)["method"])
    return partial(method.func, **method.keywords | GIVEN.get(name, {}))


def most_sources(method: partial[Tensor]) -> float:
    """Return how many sources a method merges at most, as it is bound."""
    values = method.keywords.get("values")
    return traits_of(method).max_sources or math.inf if values is None else len(values)


def pools_for(method: partial[Tensor]) -> list[str]:
    """List the pools that a method merges, by its shapes and its number of sources."""
    traits = traits_of(method)
    most = most_sources(method)
    return [
        name
        for name, pool in POOLS.items()
        if (traits.any_shape or not pool.turned)
        and traits.min_sources <= pool.n_sources <= most
    ]


def is_spectral(method: partial[Tensor]) -> bool:
    """Return True if a method decomposes matrices."""
    return traits_of(method).choice in (is_matrix, is_two_dimensional)


def entries(
    name: str, method: partial[Tensor], folders: Sequence[Path], *, n_threads: int = 2
) -> dict[str, Entry]:
    """Merge a written pool and describe every merged tensor, by name."""
    pivot, *sources = (open_checkpoint(folder, root=folder) for folder in folders)
    with tempfile.TemporaryDirectory() as place:
        merge_checkpoints(
            method,
            pivot,
            sources,
            Path(place) / "merged",
            settings=replace(SETTINGS, n_threads=n_threads),
            progress=False,
        )
        merged = load_file(Path(place) / "merged" / "model.safetensors")
    if POOLS[name].turned or is_spectral(method):
        return {key: projections(key, merged[key]) for key in sorted(merged)}
    return {key: digest_of(merged[key]) for key in sorted(merged)}


def all_entries(pools: Mapping[str, Sequence[Path]], *, n_threads: int = 2) -> Merges:
    """Merge the written pools by every method."""
    merges: Merges = {}
    for name in method_names():
        method = method_of(name)
        merges[name] = {
            pool: entries(pool, method, pools[pool], n_threads=n_threads)
            for pool in pools_for(method)
            if pool in pools
        }
    return merges


def inputs_of(pools: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Hash the weights that a pool's models have on disk, by pool."""
    return {
        pool: _digest(
            f"{key}:{digest_of(tensor)}".encode()
            for folder in folders
            for key, tensor in sorted(load_file(folder / "model.safetensors").items())
        )
        for pool, folders in pools.items()
    }


def digest_of(tensor: Tensor) -> str:
    """Hash a tensor's dtype, shape and bytes."""
    pattern = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return _digest([f"{tensor.dtype}{tuple(tensor.shape)}".encode(), pattern])


def projections(name: str, tensor: Tensor) -> list[float]:
    """Multiply a tensor by N_PROJECTIONS fixed vectors of +1 and -1, in float64."""
    values = tensor.double().reshape(-1).numpy()
    sums = [
        float(values @ (1.0 - 2.0 * (words(f"{name}#{k}", values.size) >> np.uint64(63))))
        for k in range(N_PROJECTIONS)
    ]
    return [round(total, 7) for total in sums]


def read_golden() -> dict[str, Any]:
    """Read tests/golden.json: ``numbers_version``, ``inputs`` by pool and ``merges``."""
    golden: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return golden


def without_entry(golden: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """List faults of a golden file against the methods there are."""
    stored = golden["merges"].keys()
    return [
        *(
            f"conf/method/{name}.yaml has no entry in {GOLDEN.name}: run {RENEW}"
            for name in names
            if name not in stored
        ),
        *(
            f"{GOLDEN.name} has an entry {name} and conf/method has no such file: run {RENEW}"
            for name in sorted(stored - set(names))
        ),
    ]


def changed(stored: Merges, merges: Merges) -> list[str]:
    """Name method, pool and first tensor wherever two hold different entries of both."""
    return [
        f"{method} on {pool}: {names[0]} differs, {len(names)} in all"
        for method in sorted(stored.keys() & merges.keys())
        for pool in sorted(stored[method].keys() & merges[method].keys())
        if (names := _different(stored[method][pool], merges[method][pool]))
    ]


def main() -> None:
    """Renew the golden file.

    Raises:
        SystemExit: With a message, if entries of an unchanged version would be replaced.
    """
    with tempfile.TemporaryDirectory() as place:
        pools = {name: write_pool(name, Path(place)) for name in POOLS}
        fresh = {
            "numbers_version": NUMBERS_VERSION,
            "inputs": inputs_of(pools),
            "merges": all_entries(pools),
        }
    if GOLDEN.exists():
        fresh = renewed(read_golden(), fresh)
    text = json.dumps(fresh, indent=1, sort_keys=True)
    GOLDEN.write_text(f"{text}\n", encoding="utf-8")
    n_entries = sum(map(len, fresh["merges"].values()))
    sys.stdout.write(f"{n_entries} entries in {GOLDEN.name}\n")


def renewed(golden: Mapping[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Decide what the golden file becomes.

    Args:
        golden: What it is.
        fresh: The same, computed now.

    Returns:
        ``fresh``; under an unchanged version with the entries that ``golden`` has already, so
        that a processor's last bits change nothing in it.

    Raises:
        SystemExit: If the version is unchanged, and an entry or a pool's weights are not.
    """
    if golden["numbers_version"] != fresh["numbers_version"]:
        return fresh
    faults = [
        *changed_inputs(golden, fresh["inputs"]),
        *changed(golden["merges"], fresh["merges"]),
    ]
    if faults:
        raise SystemExit("\n".join([*faults, f"{GOLDEN.name} stays. {advice(golden)}"]))
    merges = {
        method: {
            pool: golden["merges"].get(method, {}).get(pool, tensors)
            for pool, tensors in of_pools.items()
        }
        for method, of_pools in fresh["merges"].items()
    }
    return {**fresh, "merges": merges}


def changed_inputs(golden: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """Name the pools whose weights are not those that the golden file was made of."""
    return [
        f"the weights of pool {pool} are not those that {GOLDEN.name} was made of: "
        "no method is to blame; a changed pool needs another name"
        for pool, digest in inputs.items()
        if golden["inputs"].get(pool, digest) != digest
    ]


def advice(golden: Mapping[str, Any]) -> str:
    """Say what to do about merged bytes that are not those of the golden file."""
    if golden["numbers_version"] != NUMBERS_VERSION:
        return (
            f"{GOLDEN.name} is of NUMBERS_VERSION {golden['numbers_version']}, the code of "
            f"{NUMBERS_VERSION}: run {RENEW}"
        )
    return (
        "Either the change was not meant to change numbers, then this is a bug; or raise "
        f"NUMBERS_VERSION ({NUMBERS_VERSION}) in seme/provenance.py and run {RENEW}"
    )


def _different(stored: Mapping[str, Entry], tensors: Mapping[str, Entry]) -> list[str]:
    return [
        name
        for name in sorted(stored.keys() | tensors.keys())
        if not _agree(stored.get(name), tensors.get(name))
    ]


def _agree(stored: Entry | None, entry: Entry | None) -> bool:
    if isinstance(stored, list) and isinstance(entry, list):
        return len(stored) == len(entry) and all(
            math.isclose(a, b, rel_tol=0.0, abs_tol=TOLERANCE)
            for a, b in zip(stored, entry, strict=True)
        )
    return stored == entry


def _digest(pieces: Sequence[bytes] | Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
