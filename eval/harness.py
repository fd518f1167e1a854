"""Score a model folder on a suite, in process, through lm-eval."""

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from lm_eval import evaluator  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.models.utils import has_bos_prefix  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from eval.load import load_model, load_tokenizer  # noqa: E402
from eval.packing import can_pack, log_likelihoods, pack  # noqa: E402
from eval.records import Sample, Score  # noqa: E402
from eval.statistics.scores import (  # noqa: E402
    byte_likelihood,
    byte_likelihood_score,
    raw_score,
)
from eval.suite import Suite, SuiteTask  # noqa: E402
from eval.tasks import build_tasks, resolve  # noqa: E402

_BOOTSTRAP_ITERS = 1
"""Smallest number for which lm-eval writes no "N/A"; errors come from the samples instead."""


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
    tasks = build_tasks(suite)
    folder = model.resolve()
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
    resolved = tuple(resolve(task, tasks[task.task]) for task in suite.tasks)
    samples = {t.task: _samples(t, results["samples"][t.task]) for t in resolved}
    scores = {t.task: _score(t, samples[t.task], results) for t in resolved}
    stated = {t.task: results["versions"].get(t.task) for t in suite.tasks}
    versions = {task: None if v == "N/A" else v for task, v in stated.items()}
    return Evaluation(tasks=resolved, scores=scores, samples=samples, versions=versions)


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
