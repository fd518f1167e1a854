import importlib
import pkgutil
import subprocess
import sys
from dataclasses import replace

import torch
from safetensors.torch import save_file

import seme.kernels
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.kernels.jit import compiled
from seme.kernels.warmup import load
from seme.streaming import CPU_BLOCK
from tests.settings import SETTINGS
from tests.test_streaming import METHODS


def signatures():
    """What every compiled loop has been compiled for in this process."""
    names = [module.name for module in pkgutil.iter_modules(seme.kernels.__path__)]
    modules = [importlib.import_module(f"seme.kernels.{name}") for name in names]
    loop = type(compiled(signatures))
    return {
        f"{module.__name__}.{name}": list(value.signatures)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, loop)
    }


def models_in(folder):
    """Four bfloat16 models of a tensor of one element and one large enough to be sampled."""
    rng = torch.Generator().manual_seed(0)
    sizes = {"a": 1, "b": 17 * CPU_BLOCK + 7}
    for index in range(4):
        (folder / str(index)).mkdir()
        tensors = {name: torch.randn(n, generator=rng).bfloat16() for name, n in sizes.items()}
        save_file(tensors, folder / str(index) / "model.safetensors")
        (folder / str(index) / "config.json").write_text('{"model_type": "toy"}')
        yield open_checkpoint(str(index), root=folder)


def load_and_merge(folder):
    """In a process of its own: merge with every method, scores cached or not, after loading."""
    assert not any(signatures().values())
    load(3)
    loaded = signatures()
    assert any(loaded.values())
    pivot, *sources = models_in(folder)
    for name, method in METHODS.items():
        for budget in (2**30, 140 * 2**20):
            merge_checkpoints(
                method,
                pivot,
                sources,
                folder / f"{name}{budget}",
                settings=replace(SETTINGS, memory_budget=budget),
                progress=False,
            )
    late = {name: new for name, new in signatures().items() if new != loaded[name]}
    assert not late, f"not loaded beforehand: {late}"


def test_load_compiles_every_loop_merges_use(tmp_path, repository):
    program = (
        "import pathlib, sys; from tests.test_warmup import load_and_merge; "
        "load_and_merge(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
