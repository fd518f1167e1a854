"""Packed multiple choice (``eval.packing``) against lm-eval's own loop, in one process.

python -m scripts.benchmark.packing

A random model of 0.2 B parameters scores random questions of four shapes on the CPU. Both ways
run in turn, three times; the table gives the fastest of each and the largest difference between
their log-likelihoods.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from eval.load import load_tokenizer
from eval.packing import log_likelihoods, pack

ROOT = Path(__file__).resolve().parents[2]
_SHAPES = {
    "StoryCloze: two endings": (60, 2, 12, 24),
    "HellaSwag: four endings": (60, 4, 25, 12),
    "ARC: four short answers": (35, 4, 5, 24),
    "MMLU: four letters": (400, 4, 1, 4),
}
"""Tokens of a context, choices, tokens of a choice, questions; about those of the tasks named."""
_BATCH_SIZE = 8
_REPEATS = 3

Request = tuple[tuple[str, str], list[int], list[int]]
"""Cache key, tokens of the context, tokens of the continuation: as lm-eval passes them."""


def main() -> None:
    """Measure every shape and print the table."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=16,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config).eval()
    tokenizer = load_tokenizer(ROOT / "eval/zoo/models/base")
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH_SIZE)

    def forward(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        out: Any = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        )
        logits: Tensor = out.logits
        return logits

    table = Table(title=f"{model.num_parameters() / 1e9:.2f} B parameters, {_device()}")
    for header in ("questions", "lm-eval s", "packed s", "ratio", "largest difference"):
        table.add_column(header, justify="left" if header == "questions" else "right")
    with torch.inference_mode():
        for name, shape in _SHAPES.items():
            requests = draw_requests(*shape)
            plain, packed = fastest_of_each(
                partial(harness._loglikelihood_tokens, requests, disable_tqdm=True),
                partial(score_packed, requests, forward),
            )
            difference = max(abs(a[0] - b[0]) for a, b in zip(plain[1], packed[1], strict=True))
            table.add_row(
                name,
                f"{plain[0]:.1f}",
                f"{packed[0]:.1f}",
                f"{plain[0] / packed[0]:.2f}",
                f"{difference:.1e}",
            )
    Console().print(table)


def draw_requests(
    n_context: int, n_choices: int, n_continuation: int, n_questions: int
) -> list[Request]:
    """Draw questions of random tokens, one request per choice."""
    rng = random.Random(0)

    def draw(n_tokens: int) -> list[int]:
        return [rng.randrange(3, 32_000) for _ in range(n_tokens)]

    contexts = {str(question): draw(n_context) for question in range(n_questions)}
    return [
        ((question, str(choice)), context, draw(n_continuation))
        for question, context in contexts.items()
        for choice in range(n_choices)
    ]


def score_packed(
    requests: list[Request], forward: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> list[tuple[float, bool]]:
    """Score requests as ``eval.harness`` does: packed rows, half as many to a batch."""
    rows = pack(dict(enumerate(r[1:] for r in requests)), max_length=2048)
    scored = log_likelihoods(
        forward, rows, batch_size=_BATCH_SIZE // 2, device=torch.device("cpu")
    )
    return [scored[index] for index in range(len(requests))]


def fastest_of_each(*ways: Callable[[], Any]) -> list[tuple[float, Any]]:
    """Run some ways in turn; return each one's fewest seconds and its last result."""
    seconds: list[list[float]] = [[] for _ in ways]
    results: list[Any] = [None] * len(ways)
    for _ in range(_REPEATS):
        for i, way in enumerate(ways):
            start = time.perf_counter()
            results[i] = way()
            seconds[i].append(time.perf_counter() - start)
    return [(min(times), result) for times, result in zip(seconds, results, strict=True)]


def _device() -> str:
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
