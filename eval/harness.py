"""Score a model folder on a suite, in process, through lm-eval."""

import difflib
import logging
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from datasets import disable_progress_bars  # noqa: E402
from datasets.exceptions import DatasetsError  # noqa: E402
from lm_eval import evaluator  # noqa: E402
from lm_eval import utils as lm_eval_utils  # noqa: E402
from lm_eval.api import task as lm_eval_task  # noqa: E402
from lm_eval.api.registry import METRIC_REGISTRY  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.models.utils import has_bos_prefix  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from eval.load import load_model, load_tokenizer  # noqa: E402
from eval.packing import can_pack, log_likelihoods, pack  # noqa: E402
from eval.records import Sample, Score  # noqa: E402
from eval.statistics.scores import (  # noqa: E402
    byte_likelihood,
    byte_likelihood_score,
    raw_score,
)
from eval.suite import TASK_KINDS, Suite, SuiteTask  # noqa: E402

_BOOTSTRAP_ITERS = 1
"""Smallest number for which lm-eval writes no "N/A"; errors come from the samples instead."""

_METRICS = ("bits_per_byte", "acc_norm", "acc", "exact_match")
"""Headline metrics in order of preference, for a suite that names none."""

_NO_TQDM = partial(lm_eval_task.tqdm, disable=True)
_EXPECTED_WARNINGS = (
    "Custom kwargs can be passed",
    "`pretrained` model kwarg is not of type",
    "Passed an already-initialized model",
    "using default aggregation",
    "using default higher_is_better",
    "No `generation_kwargs` specified",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and samples of a model on a suite; mappings follow the suite's order."""

    tasks: tuple[SuiteTask, ...]
    """Tasks of the suite; entries that are None in the suite are filled in."""
    scores: dict[str, Score]
    samples: dict[str, list[Sample]]
    versions: dict[str, Any]
    """Task to the version in its lm-eval file, None where it states none."""


def evaluate(
    model: Path, suite: Suite, *, device: str, seed: int, progress: bool
) -> Evaluation:
    """Score a model folder on every task of a suite.

    Args:
        model: Folder with weights, configuration and tokenizer.
        suite: The tasks, built once per process. Entries that are None are the task's own.
        device: A torch device; on the CPU the model runs in float32.
        seed: Seed of few-shot draws and of sampled generation.
        progress: Show a progress bar.

    Raises:
        ValueError: If the model folder is incomplete or not finite, a task or metric is
            unknown, or a score is not a fraction.
    """
    _prepare_lm_eval()
    folder = model.resolve()
    tasks = _tasks(suite, suite.fingerprint())
    for task in tasks.values():
        task.set_fewshot_seed(seed)
    devices = [] if device == "cpu" else [torch.device(device)]
    random_state = torch.random.fork_rng(devices)
    with _bar(enabled=progress) as bar, random_state, torch.inference_mode():
        torch.manual_seed(seed)
        lm = _SuiteLM(folder, device=device, batch_size=suite.batch_size, bar=bar)
        results = evaluator.evaluate(
            lm=lm,
            task_dict={"tasks": tasks},
            limit=suite.limit,
            bootstrap_iters=_BOOTSTRAP_ITERS,
            log_samples=True,
        )
    resolved = tuple(_resolve(task, tasks[task.task]) for task in suite.tasks)
    samples = {t.task: _samples(t, results["samples"][t.task]) for t in resolved}
    scores = {t.task: _score(t, samples[t.task], results) for t in resolved}
    stated = {t.task: results["versions"].get(t.task) for t in suite.tasks}
    versions = {task: None if v == "N/A" else v for task, v in stated.items()}
    return Evaluation(tasks=resolved, scores=scores, samples=samples, versions=versions)


def build_tasks(suite: Suite) -> None:
    """Build a suite's tasks and read their data, to report errors before a model is merged.

    Raises:
        ValueError: If a task is unknown or its data cannot be read.
    """
    _prepare_lm_eval()
    _tasks(suite, suite.fingerprint())


class _SuiteLM(HFLM):  # type: ignore[misc]  # lm_eval's types are not followed
    """lm-eval's Hugging Face model with batched tokenisation, packing and a progress bar."""

    def __init__(self, folder: Path, *, device: str, batch_size: int, bar: Progress) -> None:
        self._encoded: dict[str, list[int]] = {}
        self._bar = bar
        self._row = bar.add_task("loading", total=None)
        super().__init__(
            pretrained=load_model(folder, device=device),
            tokenizer=load_tokenizer(folder),
            batch_size=batch_size,
        )

    def loglikelihood(self, requests: list[Any], **_options: object) -> list[Any]:
        contexts = {request.args[0].rstrip() for request in requests}
        with self._tokenised(requests, contexts | {"".join(r.args) for r in requests}):
            return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], **_options: object) -> list[Any]:
        with self._tokenised(requests, {request.args[0] for request in requests}):
            return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def generate_until(self, requests: list[Any], **_options: object) -> list[Any]:
        for request in requests:
            _check_generation(request, self.max_length)
        with self._tokenised(requests, {request.args[0] for request in requests}):
            return list(super().generate_until(requests, disable_tqdm=True))

    def tok_encode(self, string: str, *args: object, **options: object) -> list[int]:
        """Return the tokens from the batch where it holds the text."""
        if not args and not options and string in self._encoded:
            return self._encoded[string]
        return list(super().tok_encode(string, *args, **options))

    @contextmanager
    def _tokenised(self, requests: list[Any], texts: Iterable[str]) -> Iterator[None]:
        """Cache the tokens of all texts and track the requests on the bar, for the block."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        plain = sorted(t for t in texts if t and not has_bos_prefix(t, prefix))
        if plain:
            self._encoded = dict(zip(plain, self.tokenizer(plain)["input_ids"], strict=True))
        kind = requests[0].request_type.replace("_", " ")
        self._bar.reset(self._row, total=len(requests), description=kind)
        yield
        self._bar.update(self._row, completed=len(requests))
        self._encoded = {}

    def _loglikelihood_tokens(self, requests: list[Any], **options: object) -> list[Any]:
        """Score requests of one context in one packed sequence, the others by lm-eval."""
        packed = self._packed(requests) if can_pack(self.model.config) else {}
        rest = [request for i, request in enumerate(requests) if i not in packed]
        options["disable_tqdm"] = True
        unpacked = iter(super()._loglikelihood_tokens(rest, **options) if rest else ())
        return [packed[i] if i in packed else next(unpacked) for i in range(len(requests))]

    def _packed(self, requests: list[Any]) -> dict[int, tuple[float, bool]]:
        """Index to log-likelihood of requests that share a context; rolling ones share none."""
        shareable = {i: r[1:] for i, r in enumerate(requests) if r[0] is not None}
        trees = pack(shareable, max_length=self.max_length)
        size = max(1, self.batch_size // 2)  # a tree is about twice as long as a request
        return log_likelihoods(self._forward, trees, batch_size=size, device=self.device)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        self._bar.advance(self._row, len(ids))
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=at, use_cache=False)
        logits: torch.Tensor = out.logits
        return logits

    def _model_call(self, inps: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        self._bar.advance(self._row, len(inps))
        logits: torch.Tensor = super()._model_call(inps, *args, **options)
        return logits

    def _model_generate(self, context: torch.Tensor, **options: object) -> torch.Tensor:
        self._bar.advance(self._row, len(context))
        tokens: torch.Tensor = super()._model_generate(context=context, **options)
        return tokens


def _check_generation(request: Any, max_length: int) -> None:  # noqa: ANN401 (lm-eval's type)
    """Refuse a task that generates more tokens than the model can read beside a prompt."""
    n_tokens = request.args[1].get("max_gen_toks", 256)  # lm-eval's default
    if n_tokens >= max_length:
        raise ValueError(
            f"task {request.task_name} generates up to {n_tokens} tokens, but prompt and answer "
            f"must fit the {max_length} tokens that this model reads: set max_gen_toks in the "
            "generation_kwargs of the task's file"
        )


@cache
def _tasks(suite: Suite, _fingerprint: str) -> dict[str, Any]:
    """Build a suite's tasks, once per process and content of their files."""
    folder = None if suite.include_path is None else str(suite.include_path)
    manager = TaskManager(include_defaults=folder is None, include_path=folder)
    if folder is not None and any(t.task not in manager.all_tasks for t in suite.tasks):
        manager = TaskManager(include_defaults=True, include_path=folder)  # takes seconds
    return {task.task: _build(task, manager, suite.split) for task in suite.tasks}


def _build(task: SuiteTask, manager: TaskManager, split: str | None) -> Any:  # noqa: ANN401
    """Build one lm-eval task with the suite's split and shots; refuse unsupported kinds."""
    _check_entry(task, manager)
    try:
        built = manager.load([task.task])["tasks"][task.task]
    except (ConnectionError, FileNotFoundError, DatasetsError) as error:
        raise ValueError(
            f"the data of task {task.task} cannot be read: {error}; SEME_ONLINE=1 in the "
            "environment lets it be downloaded"
        ) from error
    if built.OUTPUT_TYPE not in TASK_KINDS.values():
        raise ValueError(
            f"a task must be one of {sorted(TASK_KINDS.values())}, {task.task} is "
            f"{built.OUTPUT_TYPE}"
        )
    if task.kind is not None and TASK_KINDS[task.kind] != built.OUTPUT_TYPE:
        raise ValueError(
            f"{task.task} must be {TASK_KINDS[task.kind]}, it is {built.OUTPUT_TYPE}"
        )
    if split is not None:
        if split not in built.dataset:
            raise ValueError(f"{task.task} has splits {sorted(built.dataset)}, got {split!r}")
        built.set_config("test_split", split)
    if task.num_fewshot is not None:
        built.set_config("num_fewshot", task.num_fewshot)
    return built


def _resolve(task: SuiteTask, built: Any) -> SuiteTask:  # noqa: ANN401 (an lm-eval task)
    """Fill in kind, metric, score and filter where the suite leaves them to the task.

    The metric is the first of ``_METRICS`` that the task has, else its first; the filter is the
    only one, else the one called strict, else the first.
    """
    kind = next(kind for kind, output in TASK_KINDS.items() if output == built.OUTPUT_TYPE)
    names = list(built.aggregation())
    preferred = [name for name in _METRICS if name in names]
    metric = task.metric or (preferred or names)[0]
    filters = [str(ensemble.name) for ensemble in built._filters] or ["none"]
    strict = [name for name in filters if "strict" in name]
    return replace(
        task,
        kind=task.kind or kind,
        metric=metric,
        score=task.score or ("byte_likelihood" if metric == "bits_per_byte" else "raw"),
        filter=task.filter or (strict or filters)[0],
    )


def _check_entry(task: SuiteTask, manager: TaskManager) -> None:
    """Refuse groups, unknown tasks and unknown metrics before any network access."""
    if task.task not in manager.all_subtasks:
        kind = "a group or tag: name its tasks" if task.task in manager.all_tasks else "unknown"
        close = difflib.get_close_matches(task.task, manager.all_subtasks, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        where = f"{manager.include_path or 'no folder'} and lm-eval's own"
        raise ValueError(f"task {task.task} is {kind} (tasks are from {where}){hint}")
    config = manager.task_index[task.task].cfg or {}
    if "process_results" in config:
        return
    names = [str(metric["metric"]) for metric in config.get("metric_list") or []]
    if unknown := [n for n in names if n not in METRIC_REGISTRY and "/" not in n]:
        raise ValueError(
            f"{task.task} has metrics {unknown} that lm-eval does not know; "
            f"expected metrics from {sorted(METRIC_REGISTRY)}"
        )


def _samples(task: SuiteTask, logged: list[dict[str, Any]]) -> list[Sample]:
    """Convert lm-eval's samples under the task's filter, in document order."""
    of_filter = [sample for sample in logged if sample["filter"] == task.filter]
    if not of_filter or task.metric not in of_filter[0]:
        filters = sorted({sample["filter"] for sample in logged})
        raise ValueError(
            f"{task.task} must report {task.metric} under filter {task.filter}; "
            f"it has filters {filters} and metrics {logged[0]['metrics']}"
        )
    return [_sample(task, sample) for sample in sorted(of_filter, key=lambda s: s["doc_id"])]


def _sample(task: SuiteTask, logged: Mapping[str, Any]) -> Sample:
    metric, rolling = logged[str(task.metric)], task.score == "byte_likelihood"
    if not rolling and not isinstance(metric, numbers.Real):
        raise ValueError(f"{task.task}: {task.metric} must be a number, got {metric!r}")
    log, n_bytes = (float(metric[0]), int(metric[1])) if rolling else (None, None)
    return Sample(
        doc_id=int(logged["doc_id"]),
        doc_hash=str(logged["doc_hash"]),
        value=float(metric)
        if log is None or n_bytes is None
        else byte_likelihood(log, n_bytes),
        loglikelihood=log,
        n_bytes=n_bytes,
    )


def _score(task: SuiteTask, samples: list[Sample], results: Mapping[str, Any]) -> Score:
    """Score a task from its samples, and check it against lm-eval's aggregate."""
    if not results["higher_is_better"][task.task][task.metric] and task.score == "raw":
        raise ValueError(f"{task.task}: {task.metric} must be better when higher to be a score")
    if task.score == "raw":
        score = raw_score(samples, metric=str(task.metric))
    else:
        score = byte_likelihood_score(samples)
    reported = float(results["results"][task.task][f"{task.metric},{task.filter}"])
    if not math.isclose(score.raw, reported, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(
            f"{task.task}: {task.metric} must be aggregated over documents by its mean, "
            f"which is {score.raw}; lm-eval reports {reported}"
        )
    return score


@contextmanager
def _bar(*, enabled: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True, disable=not enabled) as bar:
        yield bar


_compiled = lru_cache(maxsize=1024)(lm_eval_utils.env.from_string)


def _apply_template(template: str, doc: Mapping[str, Any]) -> str:
    """Replace lm-eval's function, which compiles the template anew for every document."""
    return str(_compiled(template).render(**doc))


def _prepare_lm_eval() -> None:
    """Silence lm-eval's expected warnings, messages and bars; cache its templates."""
    lm_eval_utils.apply_template = _apply_template
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    for name in ("lm_eval.api.task", "lm_eval.config.task", "lm_eval.models.huggingface"):
        logger = logging.getLogger(name)
        logger.addFilter(_is_unexpected)  # added once, however often this is called
    lm_eval_task.tqdm = _NO_TQDM
    disable_progress_bar()
    disable_progress_bars()


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _EXPECTED_WARNINGS)
