"""Write a model in disguise: another frame, other units, other inner bases, the same function.

python -m scripts.disguise eval/zoo/models/base results/disguised/base

Averaging a model with its disguised copy destroys it; SeMe's alignment recovers it.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from seme.alignment.transform import ATTENTION, MLP, Parts, read_block
from seme.architecture.dimensions import Dimensions
from seme.architecture.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter

_READERS = (Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD)
_WRITERS = (Part.O, Part.DOWN, Part.O_BIAS, Part.DOWN_BIAS, Part.FINAL_NORM_BIAS)
_USAGE = "usage: python -m scripts.disguise MODEL_FOLDER NEW_FOLDER"


def main(arguments: list[str]) -> int:
    """Write the copy in float32.

    Args:
        arguments: Folder of the model, folder of the copy.

    Returns:
        0; 2 if there are not two arguments, 1 if the model cannot be used.
    """
    if len(arguments) != 2:
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    source, folder = map(Path, arguments)
    try:
        pivot = open_checkpoint(source, root=Path())
        model = CanonicalModel(pivot, device=torch.device("cpu"))
        plain = FoldedWeights(FoldedModel(model, norms=FOLDABLE), untied=model.tied)
        tensors = disguised(plain, seed=0)
        layout = {
            name: TensorSpec(dtype=torch.float32, shape=tuple(tensor.shape))
            for name, tensor in tensors.items()
        }
        with CheckpointWriter(
            folder, pivot=pivot, layout=layout, config=plain.config, dtype=torch.float32
        ) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{source} in disguise: {folder}")
    return 0


def disguised(plain: FoldedWeights, *, seed: int) -> dict[str, Tensor]:
    """Turn a folded model's residual stream, move and turn its heads, move its neurons.

    Args:
        plain: The model with its norms folded: only then does a rotation change nothing.
        seed: Seed of all rotations and permutations.

    Returns:
        All tensors by name, float32; the model computes the same function.
    """
    rng = torch.Generator().manual_seed(seed)
    model, family = plain.model, plain.model.canonical.family
    turn = random_turn(model.canonical.dimensions.width, rng, centred=family.norm == "layer")
    parts: dict[Place, Tensor] = {}
    for layer in range(family.n_layers):
        attention = read_block(model.read, model.canonical, ATTENTION, layer)
        mlp = read_block(model.read, model.canonical, MLP, layer)
        moved = moved_heads(attention, model, layer, rng) | moved_neurons(mlp, rng)
        parts |= {Place(part, layer): values for part, values in moved.items()}
    ends = [place for place in model.canonical.places if place.layer is None]
    parts |= {place: model.read(place) for place in ends}
    parts = {place: turned(place.part, values, turn) for place, values in parts.items()}
    return {name: plain.assemble(name, parts).contiguous() for name in plain.names}


def random_orthogonal(n: int, rng: torch.Generator) -> Tensor:
    """Draw an orthogonal matrix, (n, n), float32."""
    axes: Tensor = torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))[0]
    return axes.float()


def random_turn(
    width: int, rng: torch.Generator, *, centred: bool, source_width: int | None = None
) -> Tensor:
    """Draw orthonormal columns; centred ones map the all-ones direction to itself."""
    if not centred:
        return random_orthogonal(width, rng)[:, :source_width]
    to, of = _axes_from_ones(width, rng), _axes_from_ones(source_width or width, rng)
    return (to[:, : of.shape[1]] @ of.T).float()


def _axes_from_ones(width: int, rng: torch.Generator) -> Tensor:
    """Draw an orthonormal basis whose first axis points to all ones, float64."""
    axes = torch.randn(width, width, generator=rng, dtype=torch.float64)
    axes[:, 0] = 1
    basis: Tensor = torch.linalg.qr(axes)[0]
    return basis * basis[0, 0].sign()


def turned(part: Part, values: Tensor, turn: Tensor) -> Tensor:
    """Rewrite a part for the turned residual stream."""
    if part in _READERS or part in (Part.EMBEDDING, Part.POSITIONS):
        return values @ turn.T
    return turn @ values if part in _WRITERS else values


def moved_heads(parts: Parts, model: FoldedModel, layer: int, rng: torch.Generator) -> Parts:
    """Permute groups, and heads inside groups, and turn the inner basis of every group."""
    sizes, qk_norm = model.canonical.dimensions, model.canonical.family.qk_norm
    per_group = sizes.n_heads // sizes.n_kv_heads
    groups = torch.randperm(sizes.n_kv_heads, generator=rng)
    heads = torch.cat(
        [g * per_group + torch.randperm(per_group, generator=rng) for g in groups]
    )
    turns_vo = [random_orthogonal(sizes.head_dim, rng) for _ in groups]
    turns_qk = [_score_turn(sizes, layer, rng) for _ in groups]
    if qk_norm != "none":
        turns_qk = [torch.eye(sizes.head_dim) for _ in groups]
    moves = {
        Part.Q: (heads, turns_qk),
        Part.K: (groups, turns_qk),
        Part.V: (groups, turns_vo),
        Part.O: (heads, turns_vo),
    }
    moved = dict(parts)
    for part, (order, turns) in moves.items():
        for name in (part, Part(f"{part}_bias")):
            if name in parts and name is not Part.O_BIAS:
                rows = parts[name].T if part is Part.O else parts[name]
                turned_rows = _moved_rows(rows, order, turns)
                moved[name] = turned_rows.T if part is Part.O else turned_rows
    if qk_norm == "all":
        identities = [torch.eye(sizes.head_dim) for _ in groups]
        moved[Part.Q_NORM] = _moved_rows(parts[Part.Q_NORM], heads, identities)
        moved[Part.K_NORM] = _moved_rows(parts[Part.K_NORM], groups, identities)
    return moved


def _moved_rows(rows: Tensor, order: Tensor, turns: list[Tensor]) -> Tensor:
    """Permute the heads' rows; ``turns`` holds the new basis of each group."""
    by_head = rows.reshape(len(order), len(turns[0]), -1)
    per_group = len(order) // len(turns)
    moved = [turns[i // per_group] @ by_head[old] for i, old in enumerate(order.tolist())]
    return torch.cat(moved).view(rows.shape)


def _score_turn(sizes: Dimensions, layer: int, rng: torch.Generator) -> Tensor:
    """Draw a basis that commutes with rotary positions: a rotation per pair, the rest free."""
    n_pairs = len(sizes.rotary_of(layer))
    turn = torch.eye(sizes.head_dim)
    for pair, angle in enumerate((6.28 * torch.rand(n_pairs, generator=rng)).tolist()):
        cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        plane = torch.tensor([pair, pair + n_pairs])
        turn[plane[:, None], plane] = torch.tensor([[cos, -sin], [sin, cos]])
    free = sizes.head_dim - 2 * n_pairs
    turn[2 * n_pairs :, 2 * n_pairs :] = random_orthogonal(free, rng)
    return turn


def moved_neurons(parts: Parts, rng: torch.Generator) -> Parts:
    """Permute neurons and, where there is a gate, flip the sign of some (up, down)."""
    n_neurons = len(parts[Part.UP])
    order = torch.randperm(n_neurons, generator=rng)
    sign = torch.ones(n_neurons)
    if Part.GATE in parts:
        sign = torch.randint(0, 2, (n_neurons,), generator=rng) * 2.0 - 1
    moved = dict(parts)
    for part in (Part.GATE, Part.GATE_BIAS, Part.UP, Part.UP_BIAS):
        if part in parts:
            flipped = part in (Part.UP, Part.UP_BIAS)
            signed = sign if flipped else torch.ones(n_neurons)
            moved[part] = torch.einsum("n...,n->n...", parts[part][order], signed)
    moved[Part.DOWN] = parts[Part.DOWN][:, order] * sign
    return moved


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
