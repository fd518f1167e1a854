"""Cost of SeMe's alignment at a real shape: seconds per stage and peak memory.

python -m scripts.benchmark.alignment                  0.5 B parameters, both kinds of source
python -m scripts.benchmark.alignment tiny /tmp/out    another shape and output folder
"""

import inspect
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from eval.run_files import atomic_write
from scripts.benchmark.models import SHAPES, write_models
from seme.checkpoint.reader import open_checkpoint
from seme.method import prepare
from seme.provenance import collect
from seme.streaming import Models

ROOT = Path(__file__).resolve().parents[2]
_TAU = 0.1
"""Needed by the signature only: the alignment does not depend on tau."""
_STAGES = ("tokens", "bases", "map", "units", "transformation")


def main(arguments: list[str]) -> None:
    """Measure an unrelated and a fine-tuned source, one process each; write the table."""
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(*map(Path, arguments[1:]))))
        return
    shape = arguments[0] if arguments else "qwen2-0.5b"
    output = Path(arguments[1]) if len(arguments) > 1 else ROOT / "results" / "benchmarks"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        family = write_models(Path(scratch) / "family", SHAPES[shape], 1)
        (unrelated,) = write_models(Path(scratch) / "unrelated", SHAPES[shape], 0, seed=1000)
        sources = {
            "unrelated random weights": _in_process(family[0], unrelated),
            "fine-tune of the pivot": _in_process(family[0], family[1]),
        }
    output.mkdir(parents=True, exist_ok=True)
    result = {"shape": shape, "environment": collect(), "sources": sources}
    atomic_write(output / f"alignment-{shape}.json", json.dumps(result, indent=2).encode())
    atomic_write(output / f"alignment-{shape}.md", _markdown(shape, result).encode())
    print(_markdown(shape, result))


def measure(pivot: Path, source: Path) -> dict[str, Any]:
    """Align one source at the defaults, then read every tensor of it in the pivot's frame."""
    loaded = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "method" / "seme.yaml"))
    assert isinstance(loaded, dict)
    parameters = inspect.signature(prepare).parameters
    settings = {str(k): v for k, v in loaded.items() if k in parameters} | {"tau": _TAU}
    opened = [open_checkpoint(folder, root=folder) for folder in (pivot, source)]
    models = Models(
        pivot=opened[0],
        sources=(opened[1],),
        merged_names=opened[0].names,
        device=torch.device("cpu"),
    )
    before, start = _peak(), time.perf_counter()
    alignment = prepare(models, **settings)
    aligned, peak = time.perf_counter() - start, max(before, _peak())
    if alignment.folded:
        for name in alignment.models.pivot.names:
            alignment.models.sources[0].read(name)
    (diagnostics,) = alignment.diagnostics()["sources"]
    return {
        "seconds": {**diagnostics["seconds"], "alignment": aligned},
        "start_bytes": before,
        "peak_bytes_of_alignment": peak,
        "peak_bytes": max(peak, _peak()),
        "distance_from_identity": diagnostics["distance_from_identity"],
    }


def _in_process(pivot: Path, source: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benchmark.alignment", "--measure"]
    done = subprocess.run(
        [*command, str(pivot), str(source)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _peak() -> int:
    """Peak resident bytes of this process; getrusage would count its parent's.

    The kernel's counters are exact to some pages: a later reading can be lower.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert match, "/proc/self/status must have VmHWM"
    return int(match[1]) * 1024


def _markdown(shape: str, result: dict[str, Any]) -> str:
    machine = result["environment"]
    rows = [
        "| source | "
        + " | ".join(f"{stage} s" for stage in _STAGES)
        + " | alignment s | peak GB of alignment | peak GB |",
        "|---" * (len(_STAGES) + 4) + "|",
    ]
    for name, source in result["sources"].items():
        seconds = [f"{source['seconds'].get(stage, 0.0):.1f}" for stage in _STAGES]
        peaks = [source["peak_bytes_of_alignment"], source["peak_bytes"]]
        rows.append(
            f"| {name} | "
            + " | ".join(seconds)
            + f" | {source['seconds']['alignment']:.1f} | "
            + " | ".join(f"{peak / 1e9:.2f}" for peak in peaks)
            + " |"
        )
    return "\n".join(
        [
            f"# Cost of aligning one source, {shape} shape",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, torch "
            f"{machine['libraries']['torch']}; bases "
            "are those of both heads; alignment is everything but the transformation, which is "
            "reading every tensor of the source in the pivot's frame.",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
