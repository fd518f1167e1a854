"""Check a kept merge: ``python -m scripts.verify FOLDER [rederive=true]``.

Every file that ``merge_manifest.json`` names is hashed again; files that are missing, changed or
added are named. ``rederive=true`` also merges again from the inputs, if they are here, and compares
the bytes; inputs on the Hub are taken from its local cache, with ``SEME_ONLINE=1`` fetched.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.wording import describe_error
from seme.publishing.manifest import Manifest
from seme.publishing.rederivation import offline_unless_asked, rederive
from seme.publishing.verification import verify_folder
from seme_bench.folders import with_embedded

_USAGE = "usage: verify FOLDER [rederive=true] [device=cpu] [memory_budget=2GiB]"
_MACHINE = ("device", "memory_budget")
_SWITCH = {"true": True, "false": False}


def main(arguments: list[str], root: Path | None = None) -> int:
    """Check one folder.

    Args:
        arguments: The folder; ``rederive=true``, with ``device`` and ``memory_budget`` as in
            ``run.py``.
        root: Folder that relative locations of inputs start from; None for the current one.

    Returns:
        0 if everything is as the manifest says; 1 if something differs, the manifest cannot be
        read, or the merge cannot be made again; 2 if the arguments cannot be read.
    """
    folders = [a for a in arguments if "=" not in a]
    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    again = _SWITCH.get(options.pop("rederive", "false"))
    if len(folders) != 1 or again is None or not options.keys() <= set(_MACHINE):
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    folder = Path(folders[0])
    if not folder.is_dir():
        print(f"{folder} is no folder; {_USAGE}", file=sys.stderr)
        return 2
    try:
        check = verify_folder(folder)
    except (ValueError, OSError) as error:
        print(f"error: {describe_error(error)}", file=sys.stderr)
        return 1
    manifest, problems = check.manifest, list(check.problems)
    print(
        f"{len(check.sound)} of {len(manifest.files)} files as in the manifest "
        f"({manifest.n_bytes / 1e6:.1f} MB)"
    )
    if again:
        offline_unless_asked()
        try:
            differences = _rederive(manifest, folder, root or Path.cwd(), options)
        except Exception as error:  # (whatever a manifest makes a method do)
            differences = [f"not made again: {describe_error(error)}"]
        if not differences:
            print("made again from the inputs: every byte is the manifest's")
        problems += differences
    else:
        print("not merged again: rederive=true does it, where the inputs are here")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


def _rederive(
    manifest: Manifest, folder: Path, root: Path, machine: Mapping[str, str]
) -> list[str]:
    def placed(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return with_embedded(config, root)

    return rederive(manifest, folder, root=root, machine=machine, placed=placed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
