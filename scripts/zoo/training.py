"""Train one small Llama from a stream of batches."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def train(
    model: LlamaForCausalLM,
    stream: Iterator[Tensor],
    *,
    steps: int,
    learning_rate: float,
    on_step: Callable[[int, float], None],
) -> LlamaForCausalLM:
    """Train in place: AdamW, linear warm-up over a tenth of the steps, then a cosine to zero.

    Args:
        model: The model; float32 weights, bfloat16 activations.
        stream: Batches of tokens, shape (rows, length).
        steps: Number of batches to train on.
        learning_rate: Its peak.
        on_step: Called after every step with the step's number, from 1, and its loss in nats.

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
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, loss.item())
    torch.nn.Module.to(model, "cpu").eval()
    return model


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
