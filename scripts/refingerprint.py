"""Renew the fingerprints of finished runs after a refactoring that changed no numbers.

``python -m scripts.refingerprint output=results``

A fingerprint holds a hash of the method's own module, so editing that module orphans its runs.
While tests/test_golden.py shows that merged bytes are unchanged, the records stay valid: they
and their folders get the fingerprints that the same runs have now. Tables, reports and
conf/variant/chosen name fingerprints too: rebuild them afterwards.
"""

import functools
import sys
from dataclasses import replace
from pathlib import Path

import yaml

from eval.records import (
    RECORD_NAME,
    Record,
    fingerprint_of,
    read_record,
    record_json,
    run_folder,
)
from eval.run_files import atomic_write
from seme.binding import bind_method
from seme.provenance import NUMBERS_VERSION, code_version

_ROOT = Path(__file__).resolve().parents[1]
_USAGE = "usage: python -m scripts.refingerprint output=RESULTS_FOLDER"


def refingerprint(root: Path) -> dict[str, str]:
    """Rename the merges of a results folder to their fingerprints under the current code.

    Args:
        root: The results folder.

    Returns:
        Old fingerprint to new one, for those that changed.

    Raises:
        ValueError: If a record is damaged or lacks the identity that its fingerprint hashes, or
            its method is not in conf/method; nothing is renamed then.
    """
    records = {path: read_record(path) for path in sorted(root.glob(f"runs/*/{RECORD_NAME}"))}
    renewed = {path: _renewed(path, record) for path, record in records.items()}
    changed = {}
    for path, record in renewed.items():
        folder = run_folder(root, record.name, record.fingerprint)
        if path.parent != folder:
            path.parent.rename(folder)
        if record.fingerprint != records[path].fingerprint:
            changed[records[path].fingerprint] = record.fingerprint
            atomic_write(folder / RECORD_NAME, record_json(record).encode())
    return changed


def _renewed(path: Path, record: Record) -> Record:
    """Return the record with the current identity and fingerprint of its run."""
    identity = record.provenance.get("identity")
    if identity is None or fingerprint_of(identity) != record.fingerprint:
        raise ValueError(
            f"{path}: provenance.identity must hash to the fingerprint "
            f"{record.fingerprint[:12]}, got {identity!r:.80}; delete the run's "
            "folder to run it again"
        )
    if record.kind != "merge":
        return record
    identity = {**identity, "code": _code_of(record.name), "numbers": NUMBERS_VERSION}
    return replace(
        record,
        fingerprint=fingerprint_of(identity),
        provenance={**record.provenance, "identity": identity},
    )


@functools.cache
def _code_of(method: str) -> str:
    """Hash the module of a method, given by the stem of its file."""
    file = _ROOT / "conf" / "method" / f"{method}.yaml"
    if not file.is_file():
        raise ValueError(f"the method {method} of a record has no file conf/method/{file.name}")
    return code_version(bind_method(yaml.safe_load(file.read_text(encoding="utf-8"))))


def main(arguments: list[str]) -> int:
    """Renew the fingerprints of one results folder.

    Args:
        arguments: ``output=FOLDER``.

    Returns:
        0; 1 if a record cannot be renewed; 2 if the arguments are invalid.
    """
    match [argument.partition("=") for argument in arguments]:
        case [("output", "=", folder)] if Path(folder).is_dir():
            root = Path(folder)
        case _:
            print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
            return 2
    try:
        changed = refingerprint(root)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for old, new in changed.items():
        print(f"{old[:12]} -> {new[:12]}")
    print(f"{len(changed)} fingerprints renewed in {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
