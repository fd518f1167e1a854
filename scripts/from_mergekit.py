"""Turn a mergekit YAML into a run of this project, and run it.

python -m scripts.from_mergekit CONFIG.yml merged_dir=FOLDER
python -m scripts.from_mergekit CONFIG.yml --show                # says the run, starts nothing
python -m scripts.from_mergekit CONFIG.yml plan=true             # memory and disk; no weights are read
python -m scripts.from_mergekit CONFIG.yml --as-mergekit ...     # its definitions, where they are here

What cannot be expressed is named by its path in the file, all at once, and nothing is run. Further
arguments are those of ``run.py``; without ``suite=NAME`` nothing is evaluated.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mergekit.recipe import ModelName, Recipe, read_recipe
from scripts.mergekit.recipe_file import refuse
from scripts.mergekit.run_entries import RunEntries, run_entries
from scripts.mergekit.translation import translate
from scripts.mergekit.work import Translation
from seme.outline import open_outline

ROOT = Path(__file__).resolve().parents[1]
_USAGE = (
    "usage: python -m scripts.from_mergekit CONFIG.yml [--show] [--as-mergekit] [key=value ...]"
)
_SWITCHES = ("--show", "--as-mergekit")
_HALF = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A mergekit configuration as a run, and what there is to say of it."""

    entries: RunEntries
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def convert(path: Path, *, as_mergekit: bool) -> Converted:
    """Turn a mergekit YAML into the entries of a run.

    Headers of the model merged into are read where values differ by tensor; no weights.

    Args:
        path: The YAML file.
        as_mergekit: Take mergekit's definitions where they are methods here.

    Raises:
        ValueError: If something cannot be read or expressed: one line for each thing, with its
            path in the file.
    """
    recipe, problems = read_recipe(path)
    translation: Translation | None = None
    notes: list[str] = []
    if recipe is not None:
        translation, more, notes = translate(recipe, as_mergekit=as_mergekit)
        problems = [*problems, *more]
    refuse(problems)
    assert recipe is not None, "what is missing is a problem"
    assert translation is not None, "what cannot be translated is a problem"
    if translation.pivot.adapter is not None:
        raise ValueError(
            f"base_model: must be no adapter, got {translation.pivot.label}: merge it into its "
            "base first"
        )
    entries = run_entries(recipe, translation, _names)
    return Converted(
        entries=entries,
        differences=tuple(_differences(recipe, translation)),
        notes=tuple(notes),
    )


def _names(model: ModelName) -> Sequence[str]:
    """Return the names of a model's tensors; an adapter has its base's."""
    return open_outline(model.location, revision=model.revision, root=ROOT).names


def _differences(recipe: Recipe, translation: Translation) -> list[str]:
    differences = list(translation.differences)
    if recipe.compute_dtype in _HALF:
        differences.append(
            f"computed in float32 and rounded once; mergekit computes in {recipe.compute_dtype}"
        )
    if recipe.tokenizer is not None:
        differences.append(
            "rows of embeddings follow the tokens of the model merged into (tokens=by_text); "
            "for tokens that a model lacks mergekit has rules of its own"
        )
    return differences


def main(arguments: Sequence[str]) -> int:
    """Convert one configuration and run it.

    Args:
        arguments: The YAML file, ``--show``, ``--as-mergekit`` and arguments of ``run.py``.

    Returns:
        0; 1 if it cannot be expressed; 2 if the arguments cannot be read; else what ``run.py``
        returned.
    """
    files = [a for a in arguments if not a.startswith("-") and "=" not in a]
    switches = [a for a in arguments if a.startswith("-")]
    if len(files) != 1 or not set(switches) <= set(_SWITCHES):
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    path = Path(files[0])
    try:
        converted = convert(path, as_mergekit="--as-mergekit" in switches)
    except ValueError as error:
        lines = [*str(error).splitlines(), *getattr(error, "__notes__", [])]
        print(f"error: {path} cannot be turned into a run:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
        return 1
    further = [a for a in arguments if "=" in a]
    if not any(a.startswith("suite=") for a in further):
        further.append("suite=none")
    command = ["run.py", *converted.entries.arguments(), *further]
    _print_lines(converted)
    print(f"python {shlex.join(command)}", flush=True)
    if "--show" in switches:
        return 0
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=False, env={**os.environ, "PWD": str(ROOT)}
    ).returncode


def _print_lines(converted: Converted) -> None:
    """Print what is other than in mergekit, ignored, or stacked."""
    for line in converted.differences:
        print(f"differs from mergekit: {line}")
    for line in converted.notes:
        print(f"ignored: {line}")
    if converted.entries.n_layers is not None:
        print(f"stacked: the result has {converted.entries.n_layers} layers")
    for line in converted.entries.uneven:
        print(f"stacked: {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
