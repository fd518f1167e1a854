"""Write a narrower, shallower copy of a model: it shares the knowledge, not the shape.

python -m scripts.prune MODEL_FOLDER NEW_FOLDER [layers=N] [groups=N] [neurons=N] [width=N]

Without training: layers are left out at even distances in the second half of the model, heads
by groups of one key head and coordinates of the residual stream by their size; of the neurons those
of the commonest size go first, as both the smallest and the largest matter most. What is kept
computes what it did, on less.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter

_MODELS = ("llama", "mistral", "qwen2")
"""Architectures whose stored tensors are the canonical parts: one each, as computed with."""
_SIZES = ("layers", "groups", "neurons", "width")
_USAGE = "usage: python -m scripts.prune MODEL_FOLDER NEW_FOLDER " + " ".join(
    f"[{size}=N]" for size in _SIZES
)
_READERS = (Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD, Part.EMBEDDING)
_WRITERS = (Part.O, Part.DOWN)
_GAINS = (Part.ATTENTION_NORM, Part.MLP_NORM, Part.FINAL_NORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a model: layers, groups of attention heads, neurons, width."""

    layers: int
    groups: int
    neurons: int
    width: int


def main(arguments: Sequence[str]) -> int:
    """Write the copy in float32.

    Args:
        arguments: Folder of the model, folder of the copy, and the sizes that shrink.

    Returns:
        0; 1 if the model cannot be used; 2 if the arguments are invalid.
    """
    folders = [a for a in arguments if "=" not in a]
    wanted = dict(a.split("=", 1) for a in arguments if "=" in a)
    numbers = all(value.isascii() and value.isdigit() for value in wanted.values())
    if len(folders) != 2 or not wanted or not wanted.keys() <= set(_SIZES) or not numbers:
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    source, folder = map(Path, folders)
    try:
        sizes = write_pruned(source, folder, {key: int(n) for key, n in wanted.items()})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {sizes}")
    return 0


def write_pruned(source: Path, folder: Path, wanted: Mapping[str, int]) -> Sizes:
    """Write the pruned copy of a model.

    Args:
        source: Folder of the model.
        folder: Folder to write.
        wanted: Some of ``layers``, ``groups`` (of heads), ``neurons`` and ``width``.

    Returns:
        The sizes of the copy.

    Raises:
        ValueError: If the architecture is not among those supported, a size is above the model's
            or 0, or the width is no multiple of the number of heads.
    """
    pivot = open_checkpoint(source, root=Path())
    kind = pivot.config.get("model_type")
    if kind not in _MODELS:
        raise ValueError(f"model_type must be one of {_MODELS}, got {kind} in {source}")
    model = CanonicalModel(pivot, device=torch.device("cpu"))
    sizes = _sizes(model, wanted)
    tensors = pruned(model, sizes)
    layout = {
        name: TensorSpec(dtype=torch.float32, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    per_group = model.dimensions.n_heads // model.dimensions.n_kv_heads
    config = dict(pivot.config) | {
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.groups,
        "num_attention_heads": sizes.groups * per_group,
        "head_dim": model.dimensions.head_dim,
        "intermediate_size": sizes.neurons,
        "hidden_size": sizes.width,
    }
    with CheckpointWriter(
        folder, pivot=pivot, layout=layout, config=config, dtype=torch.float32
    ) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return sizes


def pruned(model: CanonicalModel, sizes: Sizes) -> dict[str, Tensor]:
    """Cut every tensor of a model down to the sizes.

    Args:
        model: The model, of an architecture in which every tensor is one part as stored.
        sizes: None above the model's.

    Returns:
        Tensors by their names in the smaller model, float32.
    """
    new_number = {
        old: i for i, old in enumerate(kept_layers(model.family.n_layers, sizes.layers))
    }
    rows = {layer: _kept_rows(model, layer, sizes) for layer in new_number}
    axes, gain = kept_axes(model.read(Place(Part.HEAD)), sizes.width)
    tensors: dict[str, Tensor] = {}
    for name in model.weights.names:
        [place] = model.places_of(name)
        if place.layer is None:
            tensors[name] = _narrowed(place.part, model.read(place), axes, gain)
        elif place.layer in new_number:
            kept = _shortened(place.part, model.read(place), rows[place.layer])
            new = name.replace(f".{place.layer}.", f".{new_number[place.layer]}.")
            tensors[new] = _narrowed(place.part, kept, axes, gain)
    return tensors


def kept_layers(n_layers: int, wanted: int) -> list[int]:
    """Indices of the layers kept: those left out are spread over the second half, not the last."""
    first, dropped = n_layers // 2, n_layers - wanted
    if dropped > n_layers - 1 - first:
        return [*range(wanted - 1), n_layers - 1]
    step = (n_layers - 1 - first) / max(dropped, 1)
    out = {first + int(step * i) for i in range(dropped)}
    return [layer for layer in range(n_layers) if layer not in out]


def kept_axes(head: Tensor, width: int) -> tuple[Tensor, float]:
    """Coordinates of the residual stream with the largest weights in the LM head.

    Args:
        head: (tokens, D).
        width: Number of coordinates kept.

    Returns:
        Their indices, rising, (width,), and the factor for the gains of the norms: the root
        mean square over what is kept is another one than over all, by about this factor.
    """
    energy = head.double().square().sum(0)
    axes = _largest(energy, width)
    share = float(energy[axes].sum() / energy.sum())
    return axes, math.sqrt(share * len(energy) / width)


def _kept_rows(model: CanonicalModel, layer: int, sizes: Sizes) -> dict[Part, Tensor]:
    """Indices kept in a layer: of query heads' rows, key heads' rows and neurons."""
    head_dim, n_groups = model.dimensions.head_dim, model.dimensions.n_kv_heads
    per_group = model.dimensions.n_heads // n_groups
    v, o = model.read(Place(Part.V, layer)), model.read(Place(Part.O, layer))
    values = v.view(n_groups, -1).square().sum(1)
    outputs = o.T.reshape(n_groups, -1).square().sum(1)
    groups = _largest(values * outputs, sizes.groups)
    gate, up = model.read(Place(Part.GATE, layer)), model.read(Place(Part.UP, layer))
    down = model.read(Place(Part.DOWN, layer))
    size = gate.square().sum(1) * up.square().sum(1) * down.square().sum(0)
    neurons = _unusual(size, sizes.neurons)
    return {
        Part.Q: _spread(groups, per_group * head_dim),
        Part.K: _spread(groups, head_dim),
        Part.UP: neurons,
    }


def _shortened(part: Part, values: Tensor, rows: Mapping[Part, Tensor]) -> Tensor:
    """Keep the heads and neurons of a part of a layer."""
    if part in (Part.Q, Part.Q_BIAS):
        return values[rows[Part.Q]]
    if part in (Part.K, Part.V, Part.K_BIAS, Part.V_BIAS):
        return values[rows[Part.K]]
    if part is Part.O:
        return values[:, rows[Part.Q]]
    if part in (Part.GATE, Part.UP):
        return values[rows[Part.UP]]
    return values[:, rows[Part.UP]] if part is Part.DOWN else values


def _narrowed(part: Part, values: Tensor, axes: Tensor, gain: float) -> Tensor:
    """Keep the coordinates of the residual stream."""
    if part in _READERS:
        return values[:, axes].contiguous()
    if part in _WRITERS:
        return values[axes].contiguous()
    return values[axes] * gain if part in _GAINS else values.contiguous()


def _spread(groups: Tensor, size: int) -> Tensor:
    """Indices of the rows of groups of ``size`` rows each."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Indices of the largest entries, rising."""
    return sizes.topk(count).indices.sort().values


def _unusual(sizes: Tensor, count: int) -> Tensor:
    """Indices of the entries farthest from the median, by their ratio to it, rising."""
    tiny = torch.finfo(sizes.dtype).tiny
    logs = sizes.clamp_min(tiny).log()
    return _largest((logs - logs.median()).abs(), count)


def _sizes(model: CanonicalModel, wanted: Mapping[str, int]) -> Sizes:
    whole = Sizes(
        layers=model.family.n_layers,
        groups=model.dimensions.n_kv_heads,
        neurons=len(model.read(Place(Part.UP, 0))),
        width=model.dimensions.width,
    )
    for name, number in wanted.items():
        if not 0 < number <= getattr(whole, name):
            raise ValueError(
                f"{name} must be from 1 to the model's {getattr(whole, name)}, got {number}"
            )
    heads = model.dimensions.n_heads // whole.groups * wanted.get("groups", whole.groups)
    if wanted.get("width", whole.width) % heads:
        raise ValueError(
            f"width must be a multiple of the {heads} heads, as transformers wants it, "
            f"got {wanted.get('width', whole.width)}"
        )
    return replace(whole, **wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
