"""Fixtures common to several test files."""

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from seme.architecture.model import CanonicalModel
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.engine import MergeReport, merge_checkpoints
from tests.disguise import open_canonical
from tests.settings import SETTINGS
from tests.tiny_models import save_tiny

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}
_USER_VARIABLES = {"FORCE_COLOR", "NO_COLOR", "SEME_ONLINE"}


def pytest_collection_finish() -> None:
    """Leave what was collected out of later garbage collections, one before each measured stage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's cache, and the user's variables out of the tests.

    Files are not flushed to the disk: a tenth of the time of tests that merge was waiting for it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        for name in [n for n in os.environ if n in _USER_VARIABLES or n.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("SEME_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Compute blocks in torch on the processor too, as on a GPU, once this is called."""

    def use() -> None:
        in_seme = (f"seme.{name}" for name in ("elementwise", "sce", "rounding", "topk_mask"))
        in_baselines = (f"baselines.{name}" for name in ("consensus", "della", "ram"))
        for module in (*in_seme, *in_baselines):
            monkeypatch.setattr(f"{module}.use_numba", lambda _device: False)

    return use


@pytest.fixture(params=["compiled", "torch"])
def code_path(request: pytest.FixtureRequest, in_torch: Callable[[], None]) -> str:
    """Run a test with compiled loops and again in torch."""
    if request.param == "torch":
        in_torch()
    return request.param


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Path]:
    """Write a tiny random Llama: ``make_llama(folder, seed, dtype=..., **config)``."""

    def make(
        folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, **overrides: Any
    ) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(LlamaConfig(**{**TINY, **overrides}))
        model.to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def canonical(tmp_path: Path) -> Callable[..., CanonicalModel]:
    """Save a tiny model and open its canonical view: ``canonical("llama", **settings)``."""
    count = iter(range(9))

    def build(model_type: str, **settings: Any) -> CanonicalModel:
        return open_canonical(save_tiny(tmp_path / f"{next(count)}", model_type, **settings))

    return build


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Write and open a toy model: ``model(name, {tensor: values})``."""

    def make(
        name: str, tensors: Mapping[str, Any], config: str = '{"model_type": "toy"}'
    ) -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        values = {n: torch.as_tensor(v).clone() for n, v in tensors.items()}
        save_file(values, folder / "model.safetensors")
        return open_checkpoint(folder, root=tmp_path)

    return make


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., tuple[dict[str, Tensor], MergeReport]]:
    """Merge into ``tmp_path/merged`` and return the tensors and the report."""

    def run(
        method: partial[Tensor],
        pivot: Checkpoint,
        *sources: Checkpoint,
        folder: str = "merged",
        **settings: Any,
    ) -> tuple[dict[str, Tensor], MergeReport]:
        destination = tmp_path / folder
        settled = replace(SETTINGS, **settings)
        report = merge_checkpoints(
            method, pivot, sources, destination, settings=settled, progress=False
        )
        return load_file(destination / "model.safetensors"), report

    return run
