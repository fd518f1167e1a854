"""Show how SeMe would align a pool of models, without merging them.

python -m scripts.diagnose models=small_into_base
python -m scripts.diagnose models=custom models.pivot=PATH 'models.sources=[A,B]'

Prints each source's frame, its matched units layer by layer, the seconds of each stage, and the
paper's direction test with its control; draws the test to OUTPUT/diagnostics/<pool>.svg
(output=results by default, text=FILE for other text).

With method.alignment.anchors=activations texts are sampled with seed 0 and memory is not bounded,
whatever a run has.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from transformers.utils.logging import disable_progress_bar

from eval.leaderboard.drawing import draw
from eval.load import load_model, load_tokenizer
from eval.run_files import atomic_write
from seme.alignment.diagnosis import source_table, two_decimals
from seme.alignment.head_comparison import head_bases
from seme.architecture.readouts import readout_of
from seme.binding import bind_method, prepare
from seme.job import MergeJob, job_from_config
from seme.named_model import NamedModel
from seme.streaming import Models

ROOT = Path(__file__).resolve().parents[1]
_TEXT = ROOT / "README.md"
_LONGEST = 1000
"""Characters of the text that a model reads."""


def main(arguments: list[str]) -> int:
    """Align, print, draw.

    Args:
        arguments: ``models=POOL``, and overrides of the pool, of ``method`` and of ``output``.

    Returns:
        0; 1 if a model or an override cannot be used.
    """
    disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 100)
    try:
        config = _config(arguments)
        job = _job(config)
        models = Models(
            pivot=job.pivot.checkpoint,
            sources=tuple(source.own_base or source.checkpoint for source in job.sources),
            merged_names=job.pivot.checkpoint.names,
            device=job.settings.device,
        )
        prepared = prepare(job.method, models)
        assert prepared is not None, "SeMe has a preparation"
        diagnostics = prepared.diagnostics()
        curves = {
            m.name: direction_test(m, Path(config["text"])) for m in (job.pivot, *job.sources)
        }
    except (ValueError, OmegaConfBaseException) as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        print(f"error: {error}\n{notes}".rstrip(), file=sys.stderr)
        return 1
    names = [source.name for source in job.sources]
    console.print(source_table(diagnostics, names))
    for name, source in zip(names, diagnostics["sources"], strict=True):
        if source["layers"]:
            console.print(layer_table(source, name))
    console.print(cost_table(diagnostics, names))
    for name, curve in curves.items():
        console.print(_direction_table(name, curve))
    path = ROOT / config["output"] / "diagnostics" / f"{job.pool}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, draw(job.pool, (7.0, 3.2), partial(_paint, curves)).encode())
    console.print(f"figure: {config['output']}/diagnostics/{job.pool}.svg")
    return 0


def direction_test(model: NamedModel, text: Path) -> dict[str, list[float]]:
    """Mean cosine of representations with their recomposition, per layer (SEME.md, section 7).

    Args:
        model: A model with a tokenizer.
        text: File whose first 1000 characters the model reads.

    Returns:
        Kind of vectors to the cosine after the embedding and after every layer.
    """
    weights, device = model.checkpoint, torch.device("cpu")
    head = weights.read(readout_of(weights.config, weights.names).head).float()
    bases = head_bases(weights, None, model.name, device)
    loaded: Any = load_model(weights.path, device="cpu")
    ids = load_tokenizer(weights.path).encode(text.read_text(encoding="utf-8")[:_LONGEST])
    with torch.inference_mode():
        states = loaded(torch.tensor([ids]), output_hidden_states=True).hidden_states
    vectors = {
        "semantic bases": bases.rows(0, len(head)),
        "head rows": head,
        "input embeddings": loaded.get_input_embeddings().weight.detach(),
        "random vectors": random_vectors(*head.shape),
    }
    return {
        kind: [float(recomposition_cosine(state[0], rows).mean()) for state in states]
        for kind, rows in vectors.items()
    }


def recomposition_cosine(representations: Tensor, vectors: Tensor) -> Tensor:
    """Recompose representations from their cosines with unit vectors, and compare directions.

    SeMe, https://arxiv.org/abs/2505.20144, assumes that a representation is preserved by its
    cosines with the semantic bases. With many more tokens than dimensions any vectors preserve
    it nearly as well (measured here): only the difference to :func:`random_vectors` counts.

    Args:
        representations: (N, width), float.
        vectors: (V, width); only directions count, a vector of zeros counts for nothing.

    Returns:
        cos(r, sum_i cos(r, v_i) v_i / |v_i|) of each, float64, (N,), in [-1, 1].
    """
    directions = normalize(representations.double(), dim=1)
    unit_vectors = normalize(vectors.double(), dim=1)
    return cosine_similarity(directions, directions @ (unit_vectors.T @ unit_vectors), dim=1)


def random_vectors(n: int, width: int) -> Tensor:
    """Draw the control: vectors of independent normal numbers, (n, width), always the same."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def layer_table(source: Mapping[str, Any], name: str) -> Table:
    """Build a table of a source's layers and matched units, a row per layer of the pivot."""
    table = Table(title=f"{escape(name)}: layer by layer", title_justify="left")
    for column in ("layer", "source layers", "heads", "neurons"):
        table.add_column(column, justify="right")
    for number, layer in enumerate(source["layers"]):
        shares = zip(layer["shares"], layer["source_layers"], strict=True)
        table.add_row(
            str(number),
            " + ".join(f"{share:.2f} x {source_layer}" for share, source_layer in shares),
            two_decimals(layer.get("heads_similarity")),
            two_decimals(layer.get("neurons_similarity")),
        )
    return table


def cost_table(diagnostics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Build a table of the seconds of each stage of the alignment, a row per source."""
    stages = sorted({stage for source in diagnostics["sources"] for stage in source["seconds"]})
    table = Table(title="Seconds per stage", title_justify="left")
    table.add_column("source")
    for stage in stages:
        table.add_column(stage, justify="right")
    for name, source in zip(names, diagnostics["sources"], strict=True):
        seconds = source["seconds"]
        table.add_row(escape(name), *(f"{seconds.get(stage, 0.0):.2f}" for stage in stages))
    return table


def _config(arguments: list[str]) -> dict[str, Any]:
    """Compose the configuration of a merge by SeMe with the overrides of the command line."""
    given = OmegaConf.from_dotlist([a for a in arguments if not a.startswith("models=")])
    pools = [a.removeprefix("models=") for a in arguments if a.startswith("models=")]
    pool = ROOT / "conf" / "models" / f"{pools[-1] if pools else 'zoo'}.yaml"
    if not pool.is_file():
        known = sorted(path.stem for path in pool.parent.glob("*.yaml"))
        raise ValueError(f"models must be one of {known}, got {pool.stem!r}")
    loaded = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "config.yaml"))
    assert isinstance(loaded, dict)
    base = OmegaConf.create({k: v for k, v in loaded.items() if k not in ("defaults", "hydra")})
    base.method = OmegaConf.load(ROOT / "conf" / "method" / "seme.yaml")
    base.models = OmegaConf.load(pool)
    base.text = str(_TEXT)
    OmegaConf.set_struct(base, True)
    merged = OmegaConf.to_container(
        OmegaConf.merge(base, given), resolve=True, throw_on_missing=True
    )
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def _job(config: dict[str, Any]) -> MergeJob:
    return job_from_config(config, "seme", bind_method(config["method"]), root=ROOT)


def _direction_table(name: str, curve: dict[str, list[float]]) -> Table:
    table = Table(title=f"{name}: cosine of recomposed directions", title_justify="left")
    table.add_column("layer", justify="right")
    for kind in curve:
        table.add_column(kind, justify="right")
    for layer, values in enumerate(zip(*curve.values(), strict=True)):
        table.add_row(
            "embedding" if layer == 0 else str(layer - 1), *(f"{v:.3f}" for v in values)
        )
    table.caption = "random vectors are the control: what they reach, any vectors reach"
    return table


def _paint(curves: dict[str, dict[str, list[float]]], figure: Figure) -> None:
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _panel(axes, name, curve)
    panels[0].set_ylabel("cos(r, recomposed r)")
    panels[-1].legend(fontsize=7.5)


def _panel(axes: Axes, name: str, curve: dict[str, list[float]]) -> None:
    for kind, values in curve.items():
        control = kind == "random vectors"
        axes.plot(
            values, "--" if control else "o-", label=kind, color="#8a929c" if control else None
        )
    axes.set_title(name)
    axes.set_xlabel("layers passed")
    axes.set_xticks(range(len(curve["random vectors"])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
