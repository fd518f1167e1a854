"""Run this engine, mergekit and the copy floor, each as a process in a scratch folder."""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from scripts.benchmark.cases import Case, Difference, Peer, difference, peer_config
from scripts.benchmark.processes import Measured, run_measured
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import lay_out

ROOT = Path(__file__).resolve().parents[2]
_READ_BYTES = 1 << 24
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_FLOOR_PROGRAM = """
import sys
from pathlib import Path
from scripts.benchmark.runs import copy_floor
from seme.checkpoint.reader import open_checkpoint
destination, *models = map(Path, sys.argv[1:])
print(copy_floor(destination, [open_checkpoint(model, root=model) for model in models]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A scratch folder and the models in it."""

    scratch: Path
    models: tuple[Path, ...]
    """The pivot, then the sources."""
    mergekit: Path | None
    """The program ``mergekit-yaml``; None leaves it out."""
    pause: float
    """Seconds before every measured process."""

    def with_sources(self, n_sources: int) -> "Bench":
        """Return the bench with fewer sources."""
        return replace(self, models=self.models[: n_sources + 1])

    def settle(self) -> None:
        """Wait for the system to reclaim memory, then read the models into the page cache.

        The page cache may drop files during a long process: without this the next program would
        read the disk, and one after a short process would not.
        """
        time.sleep(self.pause)
        buffer = memoryview(bytearray(_READ_BYTES))
        for model in self.models:
            for file in sorted(model.glob("*.safetensors")):
                with file.open("rb", buffering=0) as opened:
                    while opened.readinto(buffer):
                        pass

    def merge(self, case: Case, *, keep: bool = False) -> tuple[Measured, float]:
        """Merge with this engine.

        Args:
            case: The method and its settings.
            keep: Leave the merged model in ``scratch/engine``.

        Returns:
            The whole process, and seconds of the merge alone from the run's record.
        """
        destination, output = self.scratch / "engine", self.scratch / "runs"
        pivot, *sources = self.models
        command = [
            sys.executable,
            "run.py",
            *case.overrides,
            "models=custom",
            f"models.pivot={pivot}",
            f"models.sources=[{','.join(map(str, sources))}]",
            "suite=none",
            "tracker=none",
            "device=cpu",
            "dtype=bfloat16",
            f"merged_dir={destination}",
            f"output={output}",
        ]
        environment = {**_OFFLINE, "SEME_CACHE_DIR": str(self.scratch / "cache")}
        try:
            measured = run_measured(command, cwd=ROOT, environment=environment)
            (record,) = output.glob("runs/*/record.json")
            seconds = json.loads(record.read_text())["merge_cost"]["seconds"]
        finally:
            _remove(output, *(() if keep else (destination,)))
        return measured, seconds

    def merge_with_mergekit(
        self, peer: Peer, *, dtype: str = "bfloat16", keep: bool = False
    ) -> Measured:
        """Merge with mergekit, which computes in ``dtype`` and writes bfloat16."""
        assert self.mergekit is not None, "mergekit is not installed"
        destination, recipe = self.scratch / "mergekit", self.scratch / "recipe.yaml"
        config = peer_config(peer, self.models, dtype=dtype, output_dtype="bfloat16")
        recipe.write_text(yaml.safe_dump(config))
        options = ["--no-copy-tokenizer", "--quiet"]
        command = [str(self.mergekit), str(recipe), str(destination), *options]
        try:
            return run_measured(command, cwd=self.scratch, environment=_OFFLINE)
        finally:
            _remove(*(() if keep else (destination,)))

    def floor(self) -> float:
        """Run the copy floor; return its seconds without the start of the process."""
        destination = self.scratch / "floor"
        command = [sys.executable, "-c", _FLOOR_PROGRAM]
        command += [str(path.absolute()) for path in (destination, *self.models)]
        try:
            return float(run_measured(command, cwd=ROOT, environment=_OFFLINE).output)
        finally:
            _remove(destination)

    def first(self, case: Case) -> tuple[Measured, Difference | None]:
        """Run this engine without cached hashes, and compare its numbers with mergekit's.

        Returns:
            The whole process, which also hashed the models' content, and the difference to
            mergekit computing in float32; None if definitions differ or it is not installed.
        """
        _remove(self.scratch / "cache")
        try:
            measured, _ = self.merge(case, keep=True)
            if self.mergekit is None or case.peer is None or not case.peer.coincides:
                return measured, None
            self.merge_with_mergekit(case.peer, dtype="float32", keep=True)
            return measured, difference(self.scratch / "engine", self.scratch / "mergekit")
        finally:
            _remove(self.scratch / "engine", self.scratch / "mergekit")


def copy_floor(destination: Path, models: list[Checkpoint]) -> float:
    """Time a plain copy: read all models tensor by tensor, write the first to disk.

    Args:
        destination: A new folder.
        models: The pivot, then the sources, with the pivot's names.

    Returns:
        Seconds.
    """
    start = time.perf_counter()
    destination.mkdir(parents=True)
    pivot, path = models[0], destination / "model.safetensors"
    prefix, places = lay_out(path, {name: pivot.spec(name) for name in pivot.names})
    with path.open("wb") as file:
        file.write(prefix)
        for name in sorted(places, key=lambda name: places[name].offset):
            tensors = [model.read(name) for model in models]
            file.write(tensors[0].reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
