"""Manifest of a kept merge: inputs, method, settings, versions and output files, by SHA-256."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seme.checkpoint.json_text import parse_object
from seme.checkpoint.regular_file import brief, find_file, is_file_name, read_whole, shown

MANIFEST_NAME = "merge_manifest.json"
_MAX_BYTES = 16_000_000
"""A manifest of a thousand shards from ten inputs has a tenth of it."""
_BUDGET = 20_000_000
"""Most bytes that parsing may take beyond the text, twice what that manifest takes: each wrong
value is described, which takes longer than to parse it."""
_NEEDED = {"seed", "dtype", "include", "exclude", "tokens"}

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileEntry(_Strict):
    """One file."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0, lt=2**63)]


Files = dict[str, FileEntry]
"""Path in its folder, with ``/``, to the file."""


class InputModel(_Strict):
    """A model that was merged."""

    name: str
    entry: dict[str, Any]
    """As in the pool's configuration; folders in the user's home begin with ``~``."""
    commit: str | None
    """On the Hub; None for a local folder. Of an adapter, its own."""
    base_commit: str | None
    content_hash: str
    """As records have it."""
    licence: str | None
    """As the pool or the model's card states it."""
    base_licence: str | None
    """Of the base of an adapter, or of a source's own, that is not the pivot."""
    files: Files
    base_files: Files
    """Of the base of an adapter, or of a source's own; empty for other models."""
    more: dict[str, Any]
    """``dequantised_from`` of a model converted from GGUF."""


class MergeMethod(_Strict):
    """The method, as its configuration file and the command line had it."""

    name: str
    config: dict[str, Any]
    """``_target_`` and all hyper-parameters."""
    code: str
    """Hash of the method's code."""
    numbers: int
    """Version of the numbers of the code that all methods share."""


class Manifest(_Strict):
    """Everything needed to check a merged model and to make it again."""

    schema_version: Literal[1]
    command: str
    """Makes the merge again: a command line, or of a merge from Python its call."""
    method: MergeMethod
    settings: dict[str, Any]
    """Entries of the run's configuration that apply to all methods."""
    pool: str
    pivot: InputModel
    sources: list[InputModel]
    versions: dict[str, Any]
    """Of this project, of Python and of libraries."""
    n_parameters: int
    n_bytes: int
    """Of all files."""
    files: Files

    @property
    def models(self) -> tuple[InputModel, ...]:
        """Pivot and sources."""
        return (self.pivot, *self.sources)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check that file names stay in a folder, and that what a merge needs is there."""
        if lacking := sorted(_NEEDED - self.settings.keys()):
            raise ValueError(f"settings must have {', '.join(lacking)}")
        for files in (
            self.files,
            *(part for m in self.models for part in (m.files, m.base_files)),
        ):
            if wrong := [name for name in files if not is_inner_name(name)]:
                raise ValueError(
                    f"files must be names in the folder, or in a folder of it, got "
                    f"{shown(wrong[0])}"
                )
        if MANIFEST_NAME in self.files:
            raise ValueError(f"files must not have {MANIFEST_NAME} itself")
        if not any(name.endswith(".safetensors") for name in self.files):
            raise ValueError("files must have weights, a file *.safetensors")
        return self


def is_inner_name(name: str) -> bool:
    """Return True for the name of a file, or of one in a folder: ``templates/a.jinja``."""
    parts = name.split("/")
    return len(parts) <= 2 and all(map(is_file_name, parts))


def manifest_text(manifest: Manifest) -> str:
    """Return the content of the file; the same manifest gives the same bytes."""
    return json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder that nobody vouches for.

    Raises:
        ValueError: If it is absent, too large, no JSON, or lacks an entry or has an unknown or
            wrong one; names the entry.
    """
    file = find_file(folder, MANIFEST_NAME)
    if file is None:
        raise ValueError(
            f"{folder} has no {MANIFEST_NAME}: expected a folder that merged_dir=FOLDER wrote"
        )
    text = read_whole(file, most=_MAX_BYTES)
    content = parse_object(text, what=str(file), unique=True, budget=_BUDGET)
    return parse_manifest(content, what=str(file))


def parse_manifest(content: Mapping[str, Any], *, what: str) -> Manifest:
    """Check parsed JSON against the schema.

    Raises:
        ValueError: If an entry is missing, unknown or wrong; names it.
    """
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first, *rest = error.errors(include_url=False, include_context=False)
        place = brief(".".join(map(str, first["loc"])))
        reason = first["msg"].removeprefix("Value error, ")
        more = f" (and {len(rest)} more)" if rest else ""
        got = (
            ""
            if first["type"] in ("missing", "value_error")
            else f", got {shown(first['input'])}"
        )
        raise ValueError(
            f"{what}: {place}{': ' if place else ''}{reason}{got}{more}"
        ) from error
