"""Disguised copies: equal logits from rotated streams, permuted units, other inner bases."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from scripts.disguise import disguised as disguised_tensors
from seme.alignment.residual_map import ResidualMap
from seme.architecture.folding import FOLDABLE, FoldedModel, FoldedWeights
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part
from seme.checkpoint.protocol import Weights
from seme.checkpoint.reader import open_checkpoint
from tests.tiny_models import save_tiny

TOKENS = torch.arange(24).reshape(2, 12) * 5 % 160
POST_NORMS = (Part.ATTENTION_POST_NORM, Part.MLP_POST_NORM)
_READERS = (Part.Q, Part.K, Part.V, Part.GATE, Part.UP, Part.HEAD)
_WRITERS = (Part.O, Part.DOWN, Part.O_BIAS, Part.DOWN_BIAS, Part.FINAL_NORM_BIAS)


def open_canonical(folder: Path) -> CanonicalModel:
    return CanonicalModel(open_checkpoint(folder, root=folder), device=torch.device("cpu"))


def folded(folder: Path, *, tied: bool = False) -> FoldedWeights:
    """Fold all norms; with ``tied`` keep a tied head and so the final norm's gain."""
    model = open_canonical(folder)
    keeps = model.tied and tied
    norms = FOLDABLE - {Part.FINAL_NORM} if keeps else FOLDABLE
    return FoldedWeights(FoldedModel(model, norms=norms), untied=model.tied and not keeps)


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


def disguised(pivot: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write the model in disguise."""
    plain = folded(pivot)
    return written_tensors(disguised_tensors(plain, seed=seed), plain.config, folder)


def logits_at(folder: Path) -> Tensor:
    """Compute logits with transformers; no tensor may be missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def assert_same_logits(folder: Path, expected: Path | Tensor) -> None:
    """Compare the logits of a model folder with those of another, or with these."""
    logits = logits_at(expected) if isinstance(expected, Path) else expected
    torch.testing.assert_close(logits_at(folder), logits, atol=1e-4, rtol=0.0)


def save_turnable(folder: Path, model_type: str, **overrides: object) -> Path:
    """Write a tiny model that may be turned: norms on a block's output have constant gains."""
    save_tiny(folder, model_type, **overrides)
    return with_constant(folder, *POST_NORMS)


def with_constant(folder: Path, *parts: Part) -> Path:
    """Make some gains constant on disk: each is what its first element was."""
    model, tensors = open_canonical(folder), load_file(folder / "model.safetensors")
    for name in model.weights.names:
        if model.places_of(name)[0].part in parts:
            tensors[name] = torch.full_like(tensors[name], float(tensors[name][0]))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


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
