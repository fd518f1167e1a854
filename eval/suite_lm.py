"""lm-eval's Hugging Face model, run as a suite says: prompts, batches, precision."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from accelerate.utils.memory import should_reduce_batch_size  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.models.utils import has_bos_prefix  # noqa: E402
from lm_eval.models.utils_hf import clear_torch_cache  # noqa: E402
from rich.progress import Progress  # noqa: E402

from eval.batching import batch_size_of  # noqa: E402
from eval.load import load_model, load_tokenizer, named_chat_template  # noqa: E402
from eval.packing import can_pack, log_likelihoods, pack  # noqa: E402
from eval.suite import Suite  # noqa: E402
from eval.workers import in_order  # noqa: E402

_logger = logging.getLogger(__name__)


class SuiteLM(HFLM):  # type: ignore[misc]  # lm_eval's types are not followed
    """lm-eval's Hugging Face model with batched tokenisation, packing and a progress bar.

    Where the memory does not hold a batch, batches are halved until it does.
    """

    def __init__(
        self,
        folder: Path,
        suite: Suite,
        *,
        device: str,
        bar: Progress,
        accelerator: Any = None,  # noqa: ANN401 (accelerate's types are not followed)
    ) -> None:
        self.caps: dict[str, int] = {}
        """Task to the most tokens of an answer, where it is cut short."""
        self._encoded: dict[str, list[int]] = {}
        self._bar = bar
        self._row = bar.add_task("loading", total=None)
        tokenizer = load_tokenizer(folder)
        template = named_chat_template(tokenizer, suite.chat_template, folder=folder)
        super().__init__(
            pretrained=load_model(folder, device=device, dtype=suite.dtype),
            tokenizer=tokenizer,
            max_length=suite.max_length,
            chat_template_args={} if template is None else {"chat_template": template},
        )
        self._batch = batch_size_of(suite.batch_size, self.model)
        self._packs = can_pack(self.model.config) and self.model.dtype == torch.float32
        if accelerator is not None:  # lm-eval sets it only for models that it loads itself
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    def gather_object(self, obj: Mapping[str, Any], dst: int = 0) -> list[Any]:
        """Gather the values of all processes, in the order of the documents.

        lm-eval chains process after process; some metrics depend on the order.
        """
        gathered = super().gather_object(obj, dst)
        if self.world_size == 1 or self.rank != dst:
            return list(gathered or ())
        return [{task: _joined([of_rank[task] for of_rank in gathered]) for task in obj}]

    def loglikelihood(self, requests: list[Any], **_options: object) -> list[Any]:
        contexts = {request.args[0].rstrip() for request in requests}
        with self._tokenised(requests, contexts | {"".join(r.args) for r in requests}):
            return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], **_options: object) -> list[Any]:
        by_length = self._batch.tokens is not None
        self.batch_size_per_gpu = sys.maxsize if by_length else self._batch.rows_of(1)
        with self._tokenised(requests, {request.args[0] for request in requests}):
            return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def generate_until(self, requests: list[Any], **_options: object) -> list[Any]:
        self.caps |= cap_answers(requests, int(self.max_length), int(self.max_gen_toks))
        with self._tokenised(requests, {request.args[0] for request in requests}):
            lengths = [self._length(*request.args) for request in requests]
            generate = super().generate_until
            return self._in_batches(
                lengths,
                lambda indices: generate([requests[i] for i in indices], disable_tqdm=True),
            )

    def _length(self, prompt: str, options: Mapping[str, Any]) -> int:
        """Tokens of a prompt and the longest answer together, as far as the model reads."""
        answer = options.get("max_gen_toks", self.max_gen_toks)
        return min(int(self.max_length), len(self.tok_encode(prompt)) + int(answer))

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

    def _loglikelihood_tokens(self, requests: list[Any], **_options: object) -> list[Any]:
        """Score requests of one context in one packed sequence, the others by lm-eval."""
        packed = self._packed(requests) if self._packs else {}
        rest = [request for i, request in enumerate(requests) if i not in packed]
        lengths = [min(self.max_length, len(r[1]) + len(r[2]) - 1) for r in rest]
        score = super()._loglikelihood_tokens
        unpacked = iter(
            self._in_batches(
                lengths, lambda indices: score([rest[i] for i in indices], disable_tqdm=True)
            )
        )
        return [packed[i] if i in packed else next(unpacked) for i in range(len(requests))]

    def _packed(self, requests: list[Any]) -> dict[int, tuple[float, bool]]:
        """Index to log-likelihood of requests that share a context; rolling ones share none."""
        shareable = {i: r[1:] for i, r in enumerate(requests) if r[0] is not None}
        trees = pack(shareable, max_length=self.max_length)

        def score(indices: Sequence[int]) -> list[dict[int, tuple[float, bool]]]:
            size = max(1, self.batch_size // 2)  # a tree is about twice as long as a request
            chosen = [trees[i] for i in indices]
            scored = log_likelihoods(self._forward, chosen, batch_size=size, device=self.device)
            return [{i: scored[i] for i in tree.requests} for tree in chosen]

        of_trees = self._in_batches([len(tree.tokens) for tree in trees], score)
        return {i: scored for of_tree in of_trees for i, scored in of_tree.items()}

    def _in_batches(
        self, lengths: Sequence[int], score: Callable[[Sequence[int]], list[Any]]
    ) -> list[Any]:
        """Score requests in batches of the suite's size, halved where the memory is too small.

        Args:
            lengths: Tokens of each request.
            score: Takes the indices of some requests and scores these in batches of
                ``self.batch_size`` rows.

        Returns:
            Results in the order of the requests.
        """
        results: dict[int, Any] = {}
        for indices in self._batch.classes(lengths):
            longest = max(lengths[i] for i in indices)
            results |= zip(
                indices, self._in_memory(longest, partial(score, indices)), strict=True
            )
        return [results[i] for i in range(len(lengths))]

    def _in_memory(self, longest: int, score: Callable[[], list[Any]]) -> list[Any]:
        """Score requests of at most so many tokens; start again with half where memory lacks."""
        first = self._batch.rows_of(longest)
        while True:
            self.batch_size_per_gpu = rows = self._batch.rows_of(longest)
            try:
                results = score()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if rows == 1:
                    raise ValueError(
                        f"too little memory on {self.device} for one row of {longest} tokens: "
                        "set suite.max_length lower, or suite.dtype to bfloat16"
                    ) from error
            else:
                break
            self._batch = self._batch.halved(longest)
            clear_torch_cache()
        if rows < first:
            _logger.warning(
                "too little memory for batches of %d rows of up to %d tokens: halved to %d",
                first,
                longest,
                rows,
            )
        return results

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


def cap_answers(requests: Iterable[Any], max_length: int, max_gen_toks: int) -> dict[str, int]:
    """Cut answers to half of what a model reads where they would leave no room to ask.

    Args:
        requests: lm-eval's instances of ``generate_until``; changed in place.
        max_length: Most tokens of prompt and answer together.
        max_gen_toks: Most tokens of an answer whose task names none.

    Returns:
        Task to the most tokens of an answer, for tasks that are cut.
    """
    cap, cut = max_length // 2, {}
    for request in requests:
        prompt, options = request.args
        if options.get("max_gen_toks", max_gen_toks) >= max_length:
            request.arguments = (prompt, {**options, "max_gen_toks": cap})
            cut[request.task_name] = cap
    return cut


def _joined(ranks: Sequence[Any]) -> Any:  # noqa: ANN401 (lm-eval's samples, or its metrics)
    """Put a task's samples, or the values of its metrics, in the order of the documents."""
    if isinstance(ranks[0], Mapping):
        keys = dict.fromkeys(key for of_rank in ranks for key in of_rank)
        return {key: in_order([of_rank.get(key, []) for of_rank in ranks]) for key in keys}
    filters = dict.fromkeys(sample["filter"] for sample in ranks[0])
    return [
        sample
        for name in filters
        for sample in in_order([[s for s in r if s["filter"] == name] for r in ranks])
    ]
