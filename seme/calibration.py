"""How fast this machine merges, reads and writes: measured in seconds, for a plan."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from seme.checkpoint.reader import SINGLE_FILE, Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec, lay_out
from seme.engine import MergeReport, merge_checkpoints
from seme.settings import MergeSettings

_WIDTH = 512
_TOKENS = 1024
_LAYERS = (1, 3)
"""Two models, of 5 and 13 million parameters: what they differ by has no fixed costs."""
_READ_SECONDS = 0.3
_READ_BYTES = 1 << 22
_WRITE_BYTES = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a method costs on this machine."""

    seconds_per_parameter: float
    """Of a merge whose models are in the page cache."""
    fixed_seconds: float
    """Of a merge of next to nothing."""
    passes: float
    """How often it reads every tensor of every model, its preparation included."""
    read_bytes_per_second: float
    """Of the models' own files, as they are cached now."""
    write_bytes_per_second: float
    """To the destination's disk, flushed."""


def calibrate(
    method: partial[Tensor],
    *,
    n_sources: int,
    dtype: torch.dtype,
    settings: MergeSettings,
    weights: Path | None,
    destination: Path,
) -> Calibration:
    """Merge two small models with the method, read and write for a moment.

    Args:
        method: The merge function, its hyper-parameters bound.
        n_sources: Number of sources of the merge that is planned.
        dtype: Dtype of its models.
        settings: What it shares with every other; all of the small models is merged.
        weights: A file of its models; None where there is none, then reading is taken to be
            as fast as from the page cache.
        destination: An existing folder on the disk it writes to.
    """
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        small, large = (
            _merged(method, Path(scratch) / str(n), n, n_sources, dtype, settings)
            for n in _LAYERS
        )
        file = weights or Path(scratch) / str(_LAYERS[1]) / "0" / SINGLE_FILE
        read_speed = _read_speed(file)
    n_more = large[1].n_parameters - small[1].n_parameters
    slope = max(large[0] - small[0], 0.0) / n_more
    n_bytes = large[1].n_parameters * dtype.itemsize * (n_sources + 1)
    return Calibration(
        seconds_per_parameter=slope,
        fixed_seconds=max(small[0] - slope * small[1].n_parameters, 0.0),
        passes=large[1].bytes_read / n_bytes,
        read_bytes_per_second=read_speed,
        write_bytes_per_second=_write_speed(destination),
    )


def _merged(
    method: partial[Tensor],
    folder: Path,
    n_layers: int,
    n_sources: int,
    dtype: torch.dtype,
    settings: MergeSettings,
) -> tuple[float, MergeReport]:
    """Merge small random models twice; return the seconds of the faster merge, and its report."""
    rng = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=rng) / 8 for n, s in _shapes(n_layers).items()}
    models = []
    for index in range(n_sources + 1):
        step = 0.01 if index else 0.0
        values = {
            name: (tensor + step * torch.randn(tensor.shape, generator=rng)).to(dtype)
            for name, tensor in base.items()
        }
        models.append(_model(folder / str(index), values, n_layers))
    best, report = float("inf"), None
    for attempt in range(2):
        start = time.perf_counter()
        report = merge_checkpoints(
            method,
            models[0],
            models[1:],
            folder / f"merged{attempt}",
            settings=replace(settings, dtype=None, include=(), exclude=()),
            progress=False,
        )
        best = min(best, time.perf_counter() - start)
    assert report is not None
    return best, report


def _shapes(n_layers: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a small Llama, which every method can merge."""
    matrix = (_WIDTH, _WIDTH)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (_WIDTH,),
        "post_attention_layernorm": (_WIDTH,),
        **{f"self_attn.{name}_proj": matrix for name in "qkvo"},
        "mlp.gate_proj": (4 * _WIDTH, _WIDTH),
        "mlp.up_proj": (4 * _WIDTH, _WIDTH),
        "mlp.down_proj": (_WIDTH, 4 * _WIDTH),
    }
    return {
        "model.embed_tokens.weight": (_TOKENS, _WIDTH),
        "model.norm.weight": (_WIDTH,),
        "lm_head.weight": (_TOKENS, _WIDTH),
    } | {
        f"model.layers.{index}.{name}.weight": shape
        for index in range(n_layers)
        for name, shape in layer.items()
    }


def _model(folder: Path, values: Mapping[str, Tensor], n_layers: int) -> Checkpoint:
    """Write a small Llama and open it."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 4 * _WIDTH,
        "vocab_size": _TOKENS,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / SINGLE_FILE
    specs = {n: TensorSpec(dtype=t.dtype, shape=tuple(t.shape)) for n, t in values.items()}
    prefix, places = lay_out(path, specs)
    with path.open("wb") as file:
        file.write(prefix)
        for name in sorted(places, key=lambda name: places[name].offset):
            file.write(values[name].reshape(-1).view(torch.uint8).numpy().data)
    return Checkpoint(folder, config, places)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the small merges out of the log."""
    logger = logging.getLogger("seme")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read_speed(file: Path) -> float:
    """Read a file from its beginning for a moment; return bytes per second."""
    n_read, buffer = 0, bytearray(_READ_BYTES)
    start = time.perf_counter()
    with file.open("rb", buffering=0) as opened:
        while time.perf_counter() - start < _READ_SECONDS and (n := opened.readinto(buffer)):
            n_read += n
    return max(n_read, 1) / (time.perf_counter() - start)


def _write_speed(folder: Path) -> float:
    """Write a file and flush it to disk; return bytes per second."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        content = os.urandom(_WRITE_BYTES)
        start = time.perf_counter()
        file.write(content)
        os.fsync(file.fileno())
        return _WRITE_BYTES / (time.perf_counter() - start)
