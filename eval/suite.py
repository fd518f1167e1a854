"""Suites: the tasks a model is scored on, each with its metric, domain and split.

The shortest suite is a list of names of lm-eval tasks; entries that are left out are taken from
the task itself when it is built.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval.configuration import check_name
from eval.evaluator import HF, Evaluator
from eval.metric_kinds import METRIC_KINDS, REPORTED
from eval.override_errors import did_you_mean
from eval.suite_options import check_options, frozen, thawed, whole_number

TASK_KINDS = {
    "generate": "generate_until",
    "loglikelihood": "loglikelihood",
    "multiple_choice": "multiple_choice",
    "rolling": "loglikelihood_rolling",
}
"""Kind of a task in a suite to lm-eval's output type."""

OPTIONS = {
    "chat_template": False,
    "system_instruction": None,
    "fewshot_as_multiturn": None,
    "num_fewshot": None,
    "gen_kwargs": (),
    "max_length": None,
    "dtype": None,
}
"""Options that change scores, with their defaults: they count where they are set."""

_OUTSIDE = frozenset({"data", "datasets_dir", "evaluator"})
"""Fields of a suite that are no entries of its file."""
_TASK_NAME = re.compile(r"^task:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
_HUB_DATA = re.compile(r"^dataset_path:\s*[\w.-]+/[\w.-]+\s*$|hf://", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteTask:
    """An lm-eval task and its headline metric; None is the task's own, see ``eval.harness``."""

    task: str
    metric: str | None = None
    domain: str = ""
    """Group of the task in the mean over domains; the task's name by default."""
    kind: str | None = None
    """One of ``TASK_KINDS``: refuses a task that is of another kind."""
    score: str | None = None
    """One of ``METRIC_KINDS``; None is the one of the metric's aggregation."""
    filter: str | None = None
    """The lm-eval filter whose metric counts."""
    num_fewshot: int | None = None
    group: str | None = None
    """Group of lm-eval that the task was named by, see ``eval.tasks.expand``."""

    def __post_init__(self) -> None:
        check_name("name of a task", self.task)
        for key in ("domain", "metric", "filter"):
            if getattr(self, key):
                check_name(f"{key} of task {self.task}", getattr(self, key))
        _one_of("kind", self.kind, sorted(TASK_KINDS), self.task)
        _one_of("score", self.score, sorted(METRIC_KINDS), self.task)
        if (
            None not in (self.score, self.metric)
            and self.score != REPORTED
            and ((self.score == "byte_likelihood") != (self.metric == "bits_per_byte"))
        ):
            raise ValueError(
                f"score byte_likelihood goes with metric bits_per_byte and with no other, "
                f"got score {self.score} and metric {self.metric} in task {self.task}"
            )

    def described(self) -> dict[str, Any]:
        """Entries that define the task's scores, for a record; null is the task's own."""
        left_out = {"task", "domain"} | ({"group"} if self.group is None else set())
        return {key: value for key, value in asdict(self).items() if key not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A set of tasks, evaluated together and listed in one table."""

    name: str
    tasks: tuple[SuiteTask, ...]
    split: str | None = None
    """Split of the data every task is scored on; None leaves each task's own."""
    include_path: Path | None = None
    """Absolute folder of YAML files of tasks; other names are tasks that come with lm-eval."""
    batch_size: int | str = 16
    """Rows, or ``"N tokens"``, or ``"auto"``: as many as the memory holds."""
    limit: int | None = None
    """Score only the first so many documents of each task."""
    held_out: tuple[str, ...] = ()
    """Domains that no source was tuned for."""
    datasets_dir: Path | None = None
    """Absolute folder of a mirror of Hub data sets; changes no score."""
    data: tuple[tuple[str, str], ...] = ()
    """Task and hash of its data files, for tasks that read the Hub's data sets."""
    chat_template: bool | str = False
    """True: the tokenizer's own; a text: the one of this name of its several."""
    system_instruction: str | None = None
    """Put before every prompt; the system's message where there is a chat template."""
    fewshot_as_multiturn: bool | None = None
    """Few-shot examples as turns of the conversation; None is True with a chat template."""
    num_fewshot: int | None = None
    """Shots of tasks that name none in the suite; 0 in a task's own file stays 0."""
    gen_kwargs: tuple[tuple[str, Any], ...] = ()
    """Entries that replace those of the tasks' ``generation_kwargs``."""
    max_length: int | None = None
    """Most tokens of prompt and answer together; None: what the model reads."""
    dtype: str | None = None
    """Precision of the evaluation; None: float32 on the CPU, elsewhere the checkpoint's own."""
    allow_code_execution: bool = False
    """Run the code that models write, where a task scores it by running it."""
    evaluator: Evaluator = field(default_factory=Evaluator)
    """Backend that scores the models; part of the contract where it is not lm-eval's own."""

    def __post_init__(self) -> None:
        check_name("suite.name", self.name)
        if self.split is not None:
            check_name("suite.split", self.split)
        names = [task.task for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"suite {self.name} has tasks twice: {twice}")
        if unknown := sorted(set(self.held_out) - set(self.domains.values())):
            raise ValueError(f"suite {self.name}: no task has the held-out domains {unknown}")
        check_options({field.name: getattr(self, field.name) for field in fields(self)})
        if self.limit is not None:
            whole_number("limit", self.limit, at_least=2, why=" for a standard error")

    @property
    def has_own_data(self) -> bool:
        """True if every task is a file under ``include_path`` and none there reads the Hub."""
        if self.include_path is None:
            return False
        texts = [path.read_text(encoding="utf-8") for path in self.include_path.rglob("*.yaml")]
        own = {name for text in texts for name in _TASK_NAME.findall(text)}
        return own >= {task.task for task in self.tasks} and not any(
            map(_HUB_DATA.search, texts)
        )

    @property
    def domains(self) -> dict[str, str]:
        """Task name to domain, in order, without tasks that are in no mean."""
        return {task.task: task.domain for task in self.tasks if task.score != REPORTED}

    @property
    def multiturn(self) -> bool:
        """True if few-shot examples are turns of a conversation."""
        default = self.fewshot_as_multiturn is None
        return bool(self.chat_template) if default else bool(self.fewshot_as_multiturn)

    def options(self) -> dict[str, Any]:
        """Options that change scores and are not at their defaults, JSON-ready.

        The backend is one of them.
        """
        values = {key: getattr(self, key) for key in OPTIONS}
        if self.multiturn == bool(self.chat_template):
            values["fewshot_as_multiturn"] = None  # it says what is so anyway
        changed = {key: value for key, value in values.items() if value != OPTIONS[key]}
        if self.gen_kwargs:
            changed["gen_kwargs"] = thawed(self.gen_kwargs)
        if self.evaluator.name != HF:
            changed["evaluator"] = self.evaluator.name
        return changed

    def described(self) -> dict[str, Any]:
        """Entries of a record on its suite: the name, and all that its scores depend on.

        Everything but ``held_out`` must be equal for two runs to stand in one table. The batch
        size is left out: it changes speed only. Options at their defaults are left out too; the
        fingerprint stands for the content of the task files.
        """
        return {
            "name": self.name,
            "split": self.split,
            "fingerprint": self.fingerprint(),
            "held_out": list(self.held_out),
            "limit": self.limit,
            "lm_eval": version("lm_eval"),
            "chat_template": None,
            "tasks": {task.task: task.described() for task in self.tasks},
            **({"data": dict(self.data)} if self.data else {}),
            **self.options(),
        }

    def fingerprint(self) -> str:
        """Hash of everything that defines the suite's numbers, as 32 hexadecimal digits.

        That is the definition (but not the batch size or the number of processes, which change
        speed only, nor where folders are), the content of every file beside the tasks and of the
        data, and lm-eval's version. Entries that are newer than the first records count where
        they are set.
        """
        definition = asdict(self) | {"include_path": self.include_path is not None}
        left_out = ("batch_size", "datasets_dir", "allow_code_execution", "evaluator")
        for key in (*left_out, *OPTIONS):
            del definition[key]
        definition |= self.options()
        if not self.data:
            del definition["data"]
        for task in definition["tasks"]:
            if task["group"] is None:
                del task["group"]
        parts = [json.dumps(definition, sort_keys=True), version("lm_eval")]
        if self.include_path is not None:
            parts += _contents(self.include_path)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def suite_from_config(
    mapping: Mapping[str, Any],
    *,
    root: Path,
    datasets_dir: str | None = None,
    evaluator: Evaluator | None = None,
) -> Suite | None:
    """Build a suite from its YAML.

    Args:
        mapping: The parsed file of ``conf/suite``: ``name``, ``tasks`` (names, or mappings of
            the entries of ``SuiteTask``) and any other entry of ``Suite``.
        root: Folder a relative ``include_path`` or ``datasets_dir`` starts from, the
            repository's.
        datasets_dir: Mirror of Hub data sets, or None.
        evaluator: Backend; None is the default one.

    Returns:
        The suite; None if ``tasks`` is empty: merge only.

    Raises:
        ValueError: If a key is unknown or missing, a task stands twice, or a value is not
            one of the choices.
    """
    where = f"suite {mapping.get('name')}"
    _check_keys(Suite, mapping, where=where, but=_OUTSIDE)
    for key in ("tasks", "held_out"):
        if not isinstance(mapping.get(key, ()), list | tuple):
            raise ValueError(f"{where}: {key} must be a list, [A,B], got {mapping[key]!r}")
    _check_texts(mapping, ("name", "split", "include_path"), where=where)
    if not mapping["tasks"]:
        return None
    folder = mapping.get("include_path")
    entries = {
        **mapping,
        "include_path": None if folder is None else _folder(root, folder),
        "tasks": tuple(map(_task, mapping["tasks"])),
        "held_out": tuple(mapping.get("held_out", ())),
        "gen_kwargs": frozen(mapping.get("gen_kwargs") or {}),
        "datasets_dir": _mirror(root, datasets_dir) if datasets_dir else None,
        "evaluator": evaluator or Evaluator(),
    }
    return Suite(**entries)


def _task(entry: str | Mapping[str, Any]) -> SuiteTask:
    mapping = {"task": entry} if isinstance(entry, str) else entry
    if not isinstance(mapping, Mapping):
        raise ValueError(f"a task is a name or a mapping of entries, got {entry!r}")
    where = f"task {mapping.get('task')}"
    _check_keys(SuiteTask, mapping, where=where)
    _check_texts(mapping, ("task", "metric", "domain", "filter"), where=where)
    if not (mapping["task"] and mapping.get("domain", "-")):
        raise ValueError(f"{where}: task and domain must be names, got {dict(mapping)}")
    if mapping.get("num_fewshot") is not None:
        whole_number(f"{where}: num_fewshot", mapping["num_fewshot"], at_least=0)
    return SuiteTask(**{"domain": mapping["task"], **mapping})


def _check_texts(mapping: Mapping[str, Any], keys: Iterable[str], *, where: str) -> None:
    """Refuse entries that are neither texts nor null."""
    for key in keys:
        if not isinstance(mapping.get(key), str | None):
            raise ValueError(f"{where}: {key} must be a text, got {mapping[key]!r}")


def _folder(root: Path, include_path: str) -> Path:
    folder = (root / include_path).resolve()
    if not folder.is_dir():
        raise ValueError(f"include_path must be a folder of lm-eval tasks, got {folder}")
    return folder


def _mirror(root: Path, datasets_dir: str) -> Path:
    folder = (root / Path(datasets_dir).expanduser()).resolve()
    if not folder.is_dir():
        raise ValueError(
            f"datasets_dir must be a folder with ORG/NAME/ as on the Hub, got {folder}"
        )
    return folder


def _contents(folder: Path) -> list[str]:
    """Relative name and content hash of every file but caches and hidden ones, sorted."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        f"{name.as_posix()}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"
        for name in names
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    ]


def _check_keys(
    cls: type[Any], mapping: Mapping[str, Any], *, where: str, but: Set[str] = frozenset()
) -> None:
    known = {f.name for f in fields(cls)} - but
    required = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
    if unknown := sorted(set(mapping) - known):
        raise ValueError(
            f"{where}: unknown keys {unknown}, expected keys from {sorted(known)}"
            f"{did_you_mean(map(str, unknown), known)}"
        )
    if missing := sorted(required - set(mapping)):
        raise ValueError(f"{where}: missing keys {missing}")


def _one_of(key: str, value: str | None, choices: list[str], task: str) -> None:
    if value is not None and value not in choices:
        raise ValueError(
            f"{key} must be one of {choices}, got {value!r} in task {task}"
            f"{did_you_mean([str(value)], choices)}"
        )
