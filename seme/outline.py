"""Outlines of checkpoints without their weights, for plans: names, dtypes and shapes.

transformers is imported for models without shards only; a merge never does, except to convert a
GGUF model or to run models for ``alignment.anchors=activations``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seme.architecture.config_entries import check_config
from seme.architecture.families import HEADS
from seme.checkpoint.gguf_config import outline_gguf
from seme.checkpoint.gguf_conversion import place_in_cache
from seme.checkpoint.gguf_model import read_gguf
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.model_folder import INDEX_FILE, locate, read_config, read_index
from seme.checkpoint.opening import gguf_files
from seme.checkpoint.quantised import refuse_quantised
from seme.checkpoint.reader import SINGLE_FILE, Checkpoint, is_tied, open_checkpoint
from seme.checkpoint.regular_file import find_file, shown
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec

_logger = logging.getLogger(__name__)
_PICKLE_INDEX = "pytorch_model.bin.index.json"


def open_outline(
    location: str | Path, *, revision: str | None = None, root: Path
) -> Checkpoint:
    """Open a checkpoint to plan with; its shards may be absent.

    A GGUF model that was not converted yet is not converted: its shapes are in its header.
    Without shards, shapes come from the architecture that ``config.json`` describes, built
    without memory on torch's meta device, and names from the index; of a model on the Hub that
    has none, being a single file, from the architecture too. Weights are not downloaded.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from: the repository's root.

    Returns:
        The checkpoint; reading a tensor whose shard is absent fails.

    Raises:
        ValueError: If the model cannot be opened, or its index names tensors that its
            architecture, as transformers builds it, has not.
    """
    files = gguf_files(location, revision=revision, root=root)
    if files:
        return _outline_of_gguf(files)
    model = locate(location, revision=revision, root=root, weights=False)
    shards = read_index(model.folder) if find_file(model.folder, INDEX_FILE) else {}
    on_the_hub = model.commit is not None and not _has_weights(model.folder)
    held = (find_file(model.folder, shard) for shard in sorted(set(shards.values())))
    if not on_the_hub and all(held):
        return open_checkpoint(location, revision=revision, root=root)
    config = read_config(model.folder)
    refuse_quantised(model.folder, config, {})
    if shards:
        check_config(config, dict.fromkeys(shards, ()), path=model.folder / "config.json")
    specs = _specs_of_architecture(model.folder)
    shards = shards or dict.fromkeys(specs, SINGLE_FILE)
    unknown = sorted(shards.keys() - specs.keys())
    if unknown:
        raise ValueError(
            f"{model.folder} has no shards, and the shapes of {len(unknown)} tensors do not "
            f"follow from its config.json, {unknown[0]} for one: fetch the shards to plan with "
            "this model"
        )
    stored = {
        name: StoredTensor(spec=specs[name], path=model.folder / shard, offset=0)
        for name, shard in shards.items()
        if not (is_tied(config) and name.endswith(HEADS))  # whose bytes cannot be compared
    }
    return Checkpoint(model.folder, config, stored, commit=model.commit)


def _outline_of_gguf(files: Sequence[Path]) -> Checkpoint:
    """Open a GGUF model as it is, or will be, converted."""
    folder = place_in_cache(files)
    if folder.is_dir():
        return open_checkpoint(folder, root=folder)
    outline = outline_gguf(read_gguf(files))
    size = gigabytes(outline.nbytes)
    _logger.info("%s will first be converted to %s in %s", files[0], size, folder)
    stored = {
        name: StoredTensor(spec=tensor.spec, path=folder, offset=0)
        for name, tensor in outline.tensors.items()
    }
    return Checkpoint(folder, outline.config, stored)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def pickled_only(models: Sequence[AnyCheckpoint]) -> list[str]:
    """Name the models of which the Hub has pickled weights only: a merge refuses them."""
    return [
        f"{model.path} has pickled weights only, as far as its files on the Hub show: the merge "
        "will refuse it; convert it to safetensors first"
        for model in models
        if (model.path / _PICKLE_INDEX).is_file()
        and not (model.path / INDEX_FILE).is_file()
        and not _has_weights(model.path)
    ]


def _specs_of_architecture(folder: Path) -> dict[str, TensorSpec]:
    """Build a model on the meta device; return dtype and shape of its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 (see the module)

    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        config._attn_implementation = config._experts_implementation = None  # no kernels
        dtype = getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=None, trust_remote_code=False
            )
    except Exception as error:  # whatever transformers makes of a damaged file
        raise ValueError(
            f"transformers cannot build the model that {folder / 'config.json'} describes "
            f"({type(error).__name__}: {shown(str(error))}): fetch the shards to plan with it"
        ) from error
    return {
        name: TensorSpec(dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }


def gigabytes(n_bytes: int) -> str:
    """Write a size in GB, a small one in MB."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 10_000_000 else f"{n_bytes / 1e6:.2f} MB"
