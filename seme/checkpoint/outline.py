"""A checkpoint known without its weights: for a plan, config and index are enough.

The only module of this package that imports transformers, and only where shards are absent:
a merge opens its models through :mod:`seme.checkpoint.reader` and never comes here.
"""

from pathlib import Path
from typing import Any

import torch

from seme.architecture.families import HEADS
from seme.checkpoint.model_folder import locate, read_object
from seme.checkpoint.reader import (
    INDEX_FILE,
    Checkpoint,
    is_tied,
    open_checkpoint,
    read_index,
    refuse_quantised,
)
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec


def open_outline(
    location: str | Path, *, revision: str | None = None, root: Path
) -> Checkpoint:
    """Open a checkpoint to plan with; its shards may be absent.

    Where they are, shapes come from the architecture that ``config.json`` describes, built
    without memory on torch's meta device, and names from the index. The Hub is not asked for
    the shards of a model that has an index.

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
    found = locate(location, revision=revision, root=root, weights=False)
    placed = read_index(found.folder) if (found.folder / INDEX_FILE).is_file() else {}
    if all((found.folder / shard).exists() for shard in placed.values()):
        return open_checkpoint(location, revision=revision, root=root)
    config = read_object(found.folder / "config.json", of="a model folder")
    refuse_quantised(found.folder, config, {})
    known = _specs_of_architecture(found.folder)
    unknown = sorted(placed.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"{found.folder} has no shards, and the shapes of {len(unknown)} tensors do not "
            f"follow from its config.json, {unknown[0]} for one: fetch the shards to plan with "
            "this model"
        )
    stored = {
        name: StoredTensor(spec=known[name], path=found.folder / shard, offset=0)
        for name, shard in placed.items()
        if not (is_tied(config) and name.endswith(HEADS))  # whose bytes cannot be compared
    }
    return Checkpoint(found.folder, config, stored, commit=found.commit)


def _specs_of_architecture(folder: Path) -> dict[str, TensorSpec]:
    """Return what the tensors of a model are, from its configuration alone."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 (see the module)

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    dtype = getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return {
        name: TensorSpec(dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }
