"""lm-eval's vLLM model, run as a suite says; needs the package vllm."""

import os
import sys
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported
os.environ["VLLM_NO_USAGE_STATS"] = "1"  # else vllm reports to its makers

from lm_eval.models.vllm_causallms import VLLM  # noqa: E402
from transformers import AutoConfig  # noqa: E402

from eval.load import load_tokenizer, named_chat_template  # noqa: E402
from eval.suite import Suite  # noqa: E402
from eval.suite_lm import cap_answers  # noqa: E402


class SuiteVLLM(VLLM):  # type: ignore[misc]  # lm_eval's types are not followed
    """lm-eval's vLLM model with the tokenizer, the template and the caps of ``SuiteLM``.

    Batches are vLLM's own: the suite's batch size does not count.
    """

    def __init__(
        self, folder: Path, suite: Suite, *, device: str, seed: int, progress: bool
    ) -> None:
        self.caps: dict[str, int] = {}
        """Task to the most tokens of an answer, where it is cut short."""
        self._progress = progress
        tokenizer = load_tokenizer(folder)
        template = named_chat_template(tokenizer, suite.chat_template, folder=folder)
        super().__init__(
            pretrained=str(folder),
            dtype=suite.dtype or _own_dtype(folder, device),
            max_length=suite.max_length,
            seed=seed,
            batch_size="auto" if progress else sys.maxsize,  # "auto" shows vLLM's bars
            tensor_parallel_size=suite.evaluator.tensor_parallel_size,
            gpu_memory_utilization=suite.evaluator.gpu_memory_utilization,
        )
        self.tokenizer = tokenizer  # as its files describe it; requests are sent as tokens
        if template is not None:
            self.hf_chat_template = template

    def generate_until(self, requests: list[Any], **_options: object) -> list[str]:
        self.caps |= cap_answers(requests, int(self.max_length), int(self.max_gen_toks))
        quiet = not self._progress
        return list(super().generate_until(requests, disable_tqdm=quiet))

    def _loglikelihood_tokens(self, requests: list[Any], **_options: object) -> list[Any]:
        quiet = not self._progress
        return list(super()._loglikelihood_tokens(requests, disable_tqdm=quiet))


def _own_dtype(folder: Path, device: str) -> str:
    """Precision of a suite that states none, as ``load_model`` has it.

    vLLM's own "auto" would load a float32 checkpoint in half precision.
    """
    stated = AutoConfig.from_pretrained(folder, local_files_only=True).dtype
    return "float32" if device == "cpu" or stated is None else str(stated).split(".")[-1]
