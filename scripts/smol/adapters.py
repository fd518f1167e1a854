"""LoRA adapters of the base model: training windows and the training run."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from scripts.zoo.folders import replace_folder, save_factors

_CHECKPOINT_EVERY = 20
END_OF_DOCUMENT = "<|endoftext|>"


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of tokens from several domains in turn, each from a random place.

    Every window begins with the model's first token, as a text does in evaluation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Mapping[str, Sequence[str]],
        *,
        count: int,
        length: int,
        seed: int,
    ) -> None:
        """Tokenize the texts.

        Args:
            tokenizer: The base model's.
            texts: Domain to its training texts.
            count: Number of windows.
            length: Tokens per window.
            seed: The same seed gives the same windows.
        """
        self._streams = [_tokens(tokenizer, texts[domain]) for domain in sorted(texts)]
        self._first = tokenizer.bos_token_id
        self._length, self._count, self._seed = length, count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        stream = self._streams[index % len(self._streams)]
        rng = np.random.default_rng((self._seed, index))
        start = rng.integers(len(stream) - self._length)
        tokens = stream[start : start + self._length - 1].astype(np.int64)
        window = torch.from_numpy(np.concatenate([[self._first], tokens]))
        return {"input_ids": window, "labels": window}


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> NDArray[np.uint16]:
    """Tokens of all texts in one row, each text followed by the end of a document."""
    end = [tokenizer.convert_tokens_to_ids(END_OF_DOCUMENT)]
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return np.fromiter(
        itertools.chain.from_iterable(row + end for row in rows), dtype=np.uint16
    )


def train_adapter(
    name: str,
    texts: Mapping[str, Sequence[str]],
    recipe: Mapping[str, Any],
    *,
    base: Path,
    base_name: str,
    folder: Path,
    work: Path,
) -> None:
    """Train one adapter and write its folder; goes on from the last checkpoint, if there is one.

    Args:
        name: Key under ``adapters`` in the recipe.
        texts: Domain to training texts, of the adapter's domains.
        recipe: The recipe.
        base: Folder of the base model.
        base_name: What ``adapter_config.json`` calls it.
        folder: Folder to write, complete or not at all.
        work: Folder of checkpoints; removed at the end.
    """
    plan, training = recipe["adapters"][name], recipe["training"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa"
    )
    torch.manual_seed(plan["seed"])
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=recipe["lora"]["rank"],
            lora_alpha=recipe["lora"]["alpha"],
            target_modules=list(recipe["lora"]["target_modules"]),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
    )
    windows = Windows(
        tokenizer,
        texts,
        count=plan["steps"] * training["rows"],
        length=training["length"],
        seed=plan["seed"],
    )
    trainer = Trainer(
        model=adapted,
        args=_arguments(plan, training, work),
        train_dataset=windows,
    )
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    with replace_folder(folder) as unfinished:
        save_factors(adapted, base_name, unfinished)
    shutil.rmtree(work)


def _arguments(
    plan: Mapping[str, Any], training: Mapping[str, Any], work: Path
) -> TrainingArguments:
    """AdamW, warm-up over a tenth of the steps, then a cosine to zero; bfloat16 activations."""
    return TrainingArguments(
        output_dir=str(work),
        max_steps=plan["steps"],
        per_device_train_batch_size=training["rows"],
        learning_rate=training["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=plan["steps"] // 10,
        max_grad_norm=1.0,
        weight_decay=0.0,
        adam_beta2=0.95,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_steps=_CHECKPOINT_EVERY,
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=plan["seed"],
    )
