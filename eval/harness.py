"""Score a model folder on a suite, in process, through lm-eval."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from lm_eval import evaluator  # noqa: E402
from lm_eval.api.group import Group  # noqa: E402
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
from eval.metric_kinds import REPORTED, TaskMetric  # noqa: E402
from eval.packing import can_pack, log_likelihoods, pack  # noqa: E402
from eval.records import Sample, Score  # noqa: E402
from eval.suite import Suite, SuiteTask  # noqa: E402
from eval.task_metrics import (  # noqa: E402
    check_metric,
    metric_names,
    other_metrics,
    samples_of,
    score_of,
)
from eval.tasks import build_tasks, group_of, resolve  # noqa: E402

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and samples of a model on a suite; mappings follow the suite's order."""

    tasks: tuple[SuiteTask, ...]
    """Tasks of the suite; entries that are None in the suite are filled in."""
    scores: dict[str, Score]
    """Of the tasks in the mean."""
    samples: dict[str, list[Sample]]
    """Of the tasks in the mean."""
    metrics: dict[str, dict[str, TaskMetric]]
    """Task to ``metric,filter`` to its metrics that are in no mean."""
    groups: dict[str, dict[str, float]]
    """Group of tasks to the shares of its tasks in its score; they add up to 1."""
    caps: dict[str, int]
    """Task to the most tokens of an answer, where the model reads too few for the task's own."""
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
            bootstrap_iters=0,  # errors come from the samples instead
            log_samples=True,
        )
    logged, reported = results["samples"], results["results"]
    resolved = tuple(
        resolve(task, tasks[task.task], metric_names(logged[task.task])) for task in suite.tasks
    )
    for task in resolved:
        check_metric(task, logged[task.task])
    in_mean = [task for task in resolved if task.score != REPORTED]
    samples = {t.task: samples_of(t, logged[t.task]) for t in in_mean}
    scores = {t.task: score_of(t, samples[t.task], reported[t.task]) for t in in_mean}
    metrics = {
        task.task: other_metrics(
            task,
            logged[task.task],
            reported[task.task],
            tasks[task.task].aggregation(),
            tasks[task.task].higher_is_better(),
        )
        for task in resolved
    }
    stated = {t.task: results["versions"].get(t.task) for t in suite.tasks}
    versions = {task: None if v == "N/A" else v for task, v in stated.items()}
    for name, cap in lm.caps.items():
        _logger.warning(
            "%s: answers are cut at %d tokens: the model reads %d, prompt and answer together",
            name,
            cap,
            lm.max_length,
        )
    members: dict[str, list[SuiteTask]] = defaultdict(list)
    for task in in_mean:
        if task.group is not None:
            members[task.group].append(task)
    return Evaluation(
        tasks=resolved,
        scores=scores,
        samples=samples,
        metrics={task: of_task for task, of_task in metrics.items() if of_task},
        versions=versions,
        caps=lm.caps,
        groups={
            name: _shares(_group(suite, name, tasks), of_group, scores, reported)
            for name, of_group in members.items()
        },
    )


def _group(suite: Suite, name: str, built: Mapping[str, Any]) -> Group:
    """Return lm-eval's group with the tasks of the suite that it was expanded to."""
    group = group_of(suite, name)
    for task in suite.tasks:
        if task.group == name:
            group.add(built[task.task])
    return group


def _shares(
    group: Group,
    tasks: Sequence[SuiteTask],
    scores: Mapping[str, Score],
    reported: Mapping[str, Any],
) -> dict[str, float]:
    """Shares of a group's tasks in its score, by lm-eval's own rule, which is checked.

    They are equal, or by the number of documents where the group says ``weight_by_size`` for
    the metric; a group that aggregates nothing is averaged over its tasks.
    """
    metric, filter_name = tasks[0].metric, tasks[0].filter
    rules = [rule for rule in group.aggregate_metric_list or [] if rule.metric == metric]
    by_size = bool(rules) and rules[0].weight_by_size
    sizes = {task.task: scores[task.task].n if by_size else 1 for task in tasks}
    shares = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    if rules:
        mean = math.fsum(share * scores[name].raw for name, share in shares.items())
        expected = group.aggregate(reported).get(f"{metric},{filter_name}")
        if expected is not None and not math.isclose(mean, expected, rel_tol=1e-9):
            raise ValueError(
                f"group {group.name}: the mean of {metric} over its {len(tasks)} tasks is "
                f"{mean}; lm-eval reports {expected}"
            )
    return shares


class _SuiteLM(HFLM):  # type: ignore[misc]  # lm_eval's types are not followed
    """lm-eval's Hugging Face model with batched tokenisation, packing and a progress bar."""

    def __init__(self, folder: Path, *, device: str, batch_size: int, bar: Progress) -> None:
        self.caps: dict[str, int] = {}
        """Task to the most tokens of an answer, where it is cut short."""
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
        self._cap_answers(requests)
        with self._tokenised(requests, {request.args[0] for request in requests}):
            return list(super().generate_until(requests, disable_tqdm=True))

    def _cap_answers(self, requests: Iterable[Any]) -> None:
        """Cut answers to half of what the model reads where they would leave no room to ask."""
        cap = self.max_length // 2
        for request in requests:
            prompt, options = request.args
            if options.get("max_gen_toks", self.max_gen_toks) >= self.max_length:
                request.arguments = (prompt, {**options, "max_gen_toks": cap})
                self.caps[request.task_name] = cap

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


@contextmanager
def _bar(*, enabled: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True, disable=not enabled) as bar:
        yield bar
