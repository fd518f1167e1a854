"""Folders of trained models and adapters: complete or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of another when the block ends without an error.

    Args:
        folder: What is replaced; it need not exist, nor its parent.

    Yields:
        ``.NAME.part`` beside it; what an interrupted build left there is removed first.
    """
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def save_factors(adapted: Any, base_name: str, folder: Path) -> None:  # noqa: ANN401 (PEFT model)
    """Write an adapter's configuration and factors in bfloat16, without PEFT's card.

    Args:
        adapted: The model, as PEFT returns it.
        base_name: What ``adapter_config.json`` calls the model that was adapted.
        folder: Written to; exists.
    """
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.save_pretrained(folder, save_embedding_layers=False)  # else it asks the Hub
    weights = folder / "adapter_model.safetensors"
    factors = {k: v.bfloat16().contiguous() for k, v in load_file(weights).items()}
    save_file(factors, weights, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
