import importlib
import pkgutil
import subprocess
import sys
from dataclasses import replace

import torch

import seme.kernels
from seme.calibration import calibrate
from seme.kernels.jit import compiled
from seme.kernels.warmup import load
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


def load_and_merge(folder):
    """In a process of its own: merge with every method, held or not, behind one loading."""
    assert not any(signatures().values())
    load(3)
    loaded = signatures()
    assert any(loaded.values())
    for method in METHODS.values():
        for budget in (2**30, 140 * 2**20):
            calibrate(
                method,
                n_sources=3,
                dtype=torch.bfloat16,
                settings=replace(SETTINGS, memory_budget=budget),
                weights=None,
                destination=folder,
            )
    late = {name: new for name, new in signatures().items() if new != loaded[name]}
    assert not late, f"not loaded beforehand: {late}"


def test_no_merge_pays_for_loading_a_loop(tmp_path, repository):
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
