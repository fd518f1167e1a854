"""Readers under test, and the property: a result or an error of ours, in bounded time and memory.

Whatever the bytes, a reader returns or raises a ValueError that names the folder and prints at
most some hundred characters of a file; it takes less than two seconds and 200 MB beyond the
files' size, and opens no file outside the folder (but the base that it is given).
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from scripts.fuzz import documents, folders
from scripts.fuzz.folders import Files
from scripts.fuzz.mutations import Folder
from scripts.mergekit.recipe import read_recipe
from scripts.mergekit.recipe_file import refuse
from scripts.mergekit.translation import translate
from seme.alignment.vocabulary import have_one_vocabulary, read_whole_vocabulary
from seme.architecture.model import CanonicalModel
from seme.architecture.readouts import readout_of
from seme.checkpoint.gguf_model import find_gguf, read_gguf
from seme.checkpoint.gguf_tensors import check_architecture
from seme.checkpoint.lora import AnyCheckpoint, open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.compatibility import differences, tolerated_differences
from seme.interface import CheckpointMismatchError
from seme.publishing.verification import verify_folder

MAX_SECONDS = 2.0
"""Most processor seconds for one case."""
MAX_BYTES = 200_000_000
"""Most bytes of memory for one case, beyond the files' size."""
_MAX_MESSAGE = 1500
"""Characters of an error without the paths in it."""
_MAX_LIST = 6000
"""The same of the lists that a kept merge and a recipe are told: thirty lines, or twenty."""
_LISTING = ("kept", "recipe")
_RECURSION_LIMIT = 1000
"""Python's own."""
_MAX_WAIT_SECONDS = 120
"""Until a case counts as hanging: the machine may be busy."""


class ViolationError(Exception):
    """A reader does not have the property."""


@dataclass(slots=True)
class Counts:
    """Outcomes of cases, by target."""

    results: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    messages: set[str] = field(default_factory=set)
    """Beginnings of the messages, paths and numbers left out."""
    most_seconds: float = 0.0
    most_bytes: int = 0

    def add(self, other: "Counts") -> None:
        """Add the counts of another process."""
        for counts, added in ((self.results, other.results), (self.refusals, other.refusals)):
            for target, count in added.items():
                counts[target] = counts.get(target, 0) + count
        self.messages |= other.messages
        self.most_seconds = max(self.most_seconds, other.most_seconds)
        self.most_bytes = max(self.most_bytes, other.most_bytes)

    @property
    def n_cases(self) -> int:
        """Cases of all targets."""
        return sum(self.results.values()) + sum(self.refusals.values())


class Bench:
    """A scratch folder with a valid base, in which mutated folders are read."""

    def __init__(self, root: Path) -> None:
        """Write the base and a file that nobody may open.

        Args:
            root: An empty folder.
        """
        self.root = root
        self.base = root / "base"
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("{}")
        Folder(folders.model_files("llama"), {}).write(self.base, self.outside)
        self.counts = Counts()
        self._opened: list[str] | None = None
        sys.addaudithook(self._record)
        self.pivot = open_checkpoint(self.base, root=root)

    @property
    def targets(self) -> Mapping[str, Files]:
        """Valid folders, by the name of their reader."""
        kinds = ("bpe", "unigram", "vocab", "tiktoken")
        return {
            **{f"model {name}": folders.model_files(name) for name in folders.CONFIGS},
            "sharded": folders.sharded_files(),
            "adapter": folders.adapter_files(self.base),
            **{f"tokenizer {kind}": folders.tokenizer_files(kind) for kind in kinds},
            "kept": documents.kept_files(),
            "recipe": documents.recipe_files(self.base),
            "gguf": documents.gguf_files(),
        }

    def check(self, target: str, folder: Folder) -> None:
        """Write a mutated folder, read it, and check the property.

        Raises:
            ViolationError: If it does not hold.
        """
        path = self.root / "case"
        _remove(path)
        folder.write(path, self.outside)
        read = self._readers()[target.partition(" ")[0]]
        _reset_peak()
        before, started = _memory("VmRSS"), time.process_time()
        outcome = self.counts.results
        try:
            with self._watched():
                read(path)
        except (ValueError, CheckpointMismatchError) as error:
            self._check_error(error, path, _MAX_LIST if target in _LISTING else _MAX_MESSAGE)
            outcome = self.counts.refusals
        except Exception as error:
            raise ViolationError(f"{type(error).__name__}: {str(error)[:300]}") from error
        seconds, taken = time.process_time() - started, _memory("VmHWM") - before - folder.size
        outcome[target] = outcome.get(target, 0) + 1
        self.counts.most_seconds = max(self.counts.most_seconds, seconds)
        self.counts.most_bytes = max(self.counts.most_bytes, taken)
        if seconds > MAX_SECONDS:
            raise ViolationError(f"took {seconds:.1f} s of the processor")
        if taken > MAX_BYTES:
            raise ViolationError(f"took {taken / 1e6:.0f} MB beyond the files' size")
        if target != "recipe":  # a file that the user names: it may be a link
            self._check_opened(path)

    def _readers(self) -> Mapping[str, Callable[[Path], None]]:
        return {
            "model": self._read_model,
            "sharded": self._read_model,
            "adapter": self._read_adapter,
            "tokenizer": self._read_tokenizer,
            "kept": _read_kept,
            "recipe": _read_recipe,
            "gguf": _read_gguf,
        }

    def _read_tokenizer(self, path: Path) -> None:
        read_whole_vocabulary(path)
        for pair in ((path, self.base), (self.base, path)):
            have_one_vocabulary(*pair)

    def _read_model(self, path: Path) -> None:
        model = open_checkpoint(path, root=self.root)
        _use(model)
        for pivot, source in ((self.pivot, model), (model, self.pivot)):
            differences(pivot, source)
            tolerated_differences(pivot, [source])
        with _noting(path):
            readout_of(model.config, model.names)
            CanonicalModel(model, device=torch.device("cpu"))
        read_whole_vocabulary(path)

    def _read_adapter(self, path: Path) -> None:
        _use(open_adapter(path, root=self.root))

    def _check_error(self, error: ValueError, path: Path, most: int) -> None:
        text = "\n".join([str(error), *getattr(error, "__notes__", [])])
        if type(error) not in (ValueError, CheckpointMismatchError):
            raise ViolationError(f"{type(error).__name__}: {text[:300]}") from error
        if str(path) not in text:
            raise ViolationError(f"the error does not name the folder: {text[:300]}") from error
        short = text.replace(str(path), "").replace(str(self.base), "")
        if len(short) > most:
            raise ViolationError(
                f"the error has {len(text)} characters: {text[:300]}"
            ) from error
        text.encode()
        self.counts.messages.add("".join(c for c in short if not c.isdigit())[:40])

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Record the files that are opened, and end a case that hangs."""
        self._opened = []
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(_MAX_WAIT_SECONDS)
        limit = sys.getrecursionlimit()  # hypothesis raises it
        sys.setrecursionlimit(_depth() + _RECURSION_LIMIT)
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)
            signal.alarm(0)
            self._recorded, self._opened = self._opened, None

    def _record(self, event: str, arguments: tuple[object, ...]) -> None:
        is_path = event == "open" and not isinstance(arguments[0], int)  # else a descriptor
        if is_path and self._opened is not None:
            self._opened.append(os.fsdecode(arguments[0]))  # type: ignore[arg-type]

    def _check_opened(self, path: Path) -> None:
        libraries = (sys.prefix, sys.base_prefix, "/proc/sys")  # late imports, file locks
        allowed = (path, self.base, Path(os.environ["SEME_CACHE_DIR"]), *libraries)
        for name in self._recorded:
            place = Path(os.path.realpath(name))
            if any(place.is_relative_to(os.path.realpath(folder)) for folder in allowed):
                continue
            if place.suffix not in (".py", ".pyc"):  # of this repository
                raise ViolationError(f"opened {place}, outside the folder")


def _depth() -> int:
    """Count the frames of this thread."""
    frame: FrameType | None = sys._getframe()
    depth = 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def _use(model: AnyCheckpoint) -> None:
    """Hash a model and read all its tensors, as a merge does."""
    model.content_hash()
    for name in model.names:
        model.read(name)
    model.model_files()


def _read_kept(path: Path) -> None:
    """Verify a kept merge; what it finds wrong is printed, and bounded as an error is."""
    if problems := verify_folder(path).problems:
        raise ValueError(f"{path}: " + "\n".join(problems))


def _read_recipe(path: Path) -> None:
    """Read and translate a configuration of mergekit, as far as no model is opened."""
    with _noting(path):
        recipe, problems = read_recipe(path / documents.RECIPE)
        for as_mergekit in (False, True):
            if recipe is not None:
                problems = [*problems, *translate(recipe, as_mergekit=as_mergekit)[1]]
        refuse(problems)


def _read_gguf(path: Path) -> None:
    if files := find_gguf(path):
        check_architecture(read_gguf(files))


@contextmanager
def _noting(path: Path) -> Iterator[None]:
    """Name the folder in errors of functions that are given no path; their callers do so."""
    try:
        yield
    except ValueError as error:
        error.add_note(f"while reading {path}")
        raise


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise ViolationError(f"hung for {_MAX_WAIT_SECONDS} s")


def _remove(path: Path) -> None:
    """Remove the last case's folder, of one level."""
    if path.exists():
        for inner in path.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                inner.rmdir()
            else:
                inner.unlink()
        path.rmdir()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(entry: str) -> int:
    """Return an entry of the process' memory in bytes; its peak where there is no /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
