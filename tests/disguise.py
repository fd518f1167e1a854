"""A model in disguise: the same function behind another frame, other units, other inner bases."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from seme.alignment.blocks import ATTENTION, MLP, Parts, read_block
from seme.alignment.residual import ResidualMap
from seme.models.anatomy import Anatomy
from seme.models.dimensions import Dimensions
from seme.models.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.models.parts import Part, Place
from seme.storage.checkpoint import open_checkpoint
from seme.types import Weights
from tests.tiny_models import save_tiny

TOKENS = torch.arange(24).reshape(2, 12) * 5 % 160
POST_NORMS = (Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM)
_READERS = (Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD)
_WRITERS = (Part.O, Part.DOWN, Part.O_BIAS, Part.DOWN_BIAS, Part.FINAL_NORM_BIAS)


def anatomy_of(folder: Path) -> Anatomy:
    return Anatomy(open_checkpoint(folder, root=folder), device=torch.device("cpu"))


def folded(folder: Path, *, tied: bool = False) -> FoldedWeights:
    """Fold all norms; with ``tied`` keep a tied head and so the final norm's gain."""
    anatomy = anatomy_of(folder)
    keeps = anatomy.tied and tied
    norms = FOLDABLE - {Part.FINAL_NORM} if keeps else FOLDABLE
    return FoldedWeights(FoldedModel(anatomy, norms=norms), untied=anatomy.tied and not keeps)


def written(weights: Weights, folder: Path, **config: object) -> Path:
    """Write all tensors of a model with its configuration, some of it replaced."""
    tensors = {name: weights.read(name).contiguous() for name in weights.names}
    return written_tensors(tensors, {**weights.config, **config}, folder)


def written_tensors(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], folder: Path
) -> Path:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def logits_at(folder: Path) -> Tensor:
    """Compute logits with transformers; no tensor may be missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def save_turnable(folder: Path, model_type: str, **overrides: object) -> Path:
    """Write a tiny model that may be turned: norms on a block's output have constant gains."""
    save_tiny(folder, model_type, **overrides)
    return with_constant(folder, *POST_NORMS)


def with_constant(folder: Path, *parts: Part) -> Path:
    """Make some gains constant on disk: each is what its first element was."""
    anatomy, tensors = anatomy_of(folder), load_file(folder / "model.safetensors")
    for name in anatomy.weights.names:
        if anatomy.places_of(name)[0].part in parts:
            tensors[name] = torch.full_like(tensors[name], float(tensors[name][0]))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def disguised(pivot: Path, folder: Path, *, seed: int = 0, tied: bool = False) -> Path:
    """Write the model in another residual frame, its heads and neurons moved and turned."""
    rng = torch.Generator().manual_seed(seed)
    plain = folded(pivot, tied=tied)
    model, family = plain.model, plain.model.anatomy.family
    turn = random_turn(model.anatomy.dimensions.width, rng, centred=family.norm == "layer")
    parts = {}
    for layer in range(family.n_layers):
        for kind, move in ((ATTENTION, moved_heads), (MLP, moved_neurons)):
            moved = move(read_block(model.read, model.anatomy, kind, layer), model, layer, rng)
            parts |= {Place(part, layer): values for part, values in moved.items()}
    ends = [place for place in model.anatomy.places if place.layer is None]
    parts |= {place: model.read(place) for place in ends}
    parts = {place: turned(place.part, values, turn) for place, values in parts.items()}
    tensors = {name: plain.assemble(name, parts).contiguous() for name in plain.names}
    return written_tensors(tensors, plain.config, folder)


def random_orthogonal(n: int, rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))[0].float()


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
    axes = torch.linalg.qr(axes)[0]
    return axes * axes[0, 0].sign()


def as_map(turn: Tensor) -> ResidualMap:
    """Take a matrix with orthonormal columns, (pivot's width, source's), for a residual map."""
    n_pivot, n_source = turn.shape
    return ResidualMap(
        forward_PK=turn,
        backward_KP=turn.T.contiguous(),
        support_PP=turn @ turn.T if n_source < n_pivot else None,
        distance=None,
        similarity=1.0,
    )


def turned(part: Part, values: Tensor, turn: Tensor) -> Tensor:
    if part in _READERS or part in (Part.EMBEDDING, Part.POSITIONS):
        return values @ turn.T
    return turn @ values if part in _WRITERS else values


def moved_heads(parts: Parts, model: FoldedModel, layer: int, rng: torch.Generator) -> Parts:
    """Permute groups, and heads inside groups, and turn the inner basis of every group."""
    sizes, qk_norm = model.anatomy.dimensions, model.anatomy.family.qk_norm
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
        still = [torch.eye(sizes.head_dim) for _ in groups]
        moved[Part.Q_NORM] = _moved_rows(parts[Part.Q_NORM], heads, still)
        moved[Part.K_NORM] = _moved_rows(parts[Part.K_NORM], groups, still)
    return moved


def _moved_rows(rows: Tensor, order: Tensor, turns: list[Tensor]) -> Tensor:
    """Put the heads' rows in another order; ``turns`` holds the new basis of each group."""
    by_head = rows.reshape(len(order), len(turns[0]), -1)
    per_group = len(order) // len(turns)
    moved = [turns[i // per_group] @ by_head[old] for i, old in enumerate(order.tolist())]
    return torch.cat(moved).view(rows.shape)


def _score_turn(sizes: Dimensions, layer: int, rng: torch.Generator) -> Tensor:
    """Draw what commutes with positions: a rotation of every pair, anything orthogonal beyond."""
    n_pairs = len(sizes.rotary_of(layer))
    turn = torch.eye(sizes.head_dim)
    for pair, angle in enumerate((6.28 * torch.rand(n_pairs, generator=rng)).tolist()):
        cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        plane = torch.tensor([pair, pair + n_pairs])
        turn[plane[:, None], plane] = torch.tensor([[cos, -sin], [sin, cos]])
    free = sizes.head_dim - 2 * n_pairs
    turn[2 * n_pairs :, 2 * n_pairs :] = random_orthogonal(free, rng)
    return turn


def moved_neurons(parts: Parts, model: FoldedModel, layer: int, rng: torch.Generator) -> Parts:  # noqa: ARG001
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
