"""Tokenizers, batches of token windows and the training loop of a small Llama."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.zoo.material import Material, mix_of

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=256,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> NDArray[np.uint16]:
    """Tokens of all texts in one row, each text followed by the end-of-text token."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return np.fromiter(
        itertools.chain.from_iterable(row + end for row in rows), dtype=np.uint16
    )


def batches(
    streams: Mapping[str, NDArray[np.uint16]],
    mix: Mapping[str, float],
    *,
    rows: int,
    length: int,
    seed: int,
) -> Iterator[Tensor]:
    """Yield batches of windows without end, each window from one domain.

    Args:
        streams: Domain to its tokens.
        mix: Domain to its share of the windows; the shares are normalised.
        rows: Windows per batch.
        length: Tokens per window.
        seed: The same seed gives the same batches.

    Yields:
        int64 tokens of shape (rows, length).
    """
    rng = np.random.default_rng(seed)
    domains = sorted(mix)
    shares = np.array([mix[domain] for domain in domains])
    while True:
        chosen = rng.choice(len(domains), size=rows, p=shares / shares.sum())
        windows = []
        for index in chosen:
            stream = streams[domains[index]]
            start = rng.integers(len(stream) - length)
            windows.append(stream[start : start + length].astype(np.int64))
        yield torch.from_numpy(np.stack(windows))


def train(
    model: LlamaForCausalLM,
    stream: Iterator[Tensor],
    *,
    steps: int,
    learning_rate: float,
    on_step: Callable[[int, float], None],
    autocast: bool = True,
) -> LlamaForCausalLM:
    """Train in place: AdamW, linear warm-up over a tenth of the steps, then a cosine to zero.

    Args:
        model: The model; float32 weights.
        stream: Batches of tokens, shape (rows, length).
        steps: Number of batches to train on.
        learning_rate: Peak of the schedule.
        on_step: Called after every step with the step's number, from 1, and its loss in nats.
        autocast: Activations in bfloat16, not float32, which is faster on processors without it.

    Returns:
        The model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.nn.Module.to(model, device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_up_then_cosine((step + 1) / steps)
    )
    for step in range(1, steps + 1):
        tokens = next(stream).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, loss.item())
    torch.nn.Module.to(model, "cpu").eval()
    return model


def train_by_plan(
    model: Any,  # noqa: ANN401 (Llama, or what PEFT makes of it)
    tokenizer: PreTrainedTokenizerFast,
    plan: Mapping[str, Any],
    recipe: Mapping[str, Any],
    material: Material,
    *,
    windows: Mapping[str, int],
    on_step: Callable[[int, float], None],
    autocast: bool = True,
) -> None:
    """Train a model or an adapter in place on the mix of its plan; see :func:`train`.

    Args:
        model: The model; float32 weights.
        tokenizer: Its tokenizer.
        plan: ``steps``, ``learning_rate`` and ``seed``, and what :func:`mix_of` reads.
        recipe: The recipe.
        material: Texts and exercises.
        windows: ``rows`` and ``length`` of a batch.
        on_step: Called with (step, loss in nats) after every step.
        autocast: Activations in bfloat16.
    """
    mix = mix_of(recipe, plan)
    streams = {d: tokenize(tokenizer, material.training_texts(d)) for d in mix}
    train(
        model,
        batches(streams, mix, **windows, seed=plan["seed"]),
        steps=plan["steps"],
        learning_rate=plan["learning_rate"],
        on_step=on_step,
        autocast=autocast,
    )


def fresh_model(shape: Mapping[str, Any], vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama with untied embeddings."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            **shape,
            vocab_size=vocabulary,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json and bfloat16 safetensors."""
    model.bfloat16().save_pretrained(folder)


def _warm_up_then_cosine(progress: float) -> float:
    if progress < 0.1:
        return progress / 0.1
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))
