"""The copy floor: read every tensor of all inputs, write one checkpoint, compute nothing.

python -m scripts.benchmark.floor OUTPUT_FOLDER PIVOT SOURCE...

Prints its seconds, without the start of the process, as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.safetensors_file import lay_out


def copy_floor(destination: Path, models: list[Checkpoint]) -> float:
    """Read all models tensor by tensor and write the first one to a file, flushed to disk.

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


def main() -> None:
    """Parse the command line and print the seconds."""
    destination, *models = (Path(argument).resolve() for argument in sys.argv[1:])
    opened = [open_checkpoint(model, root=model) for model in models]
    print(json.dumps({"seconds": copy_floor(destination, opened)}))


if __name__ == "__main__":
    main()
