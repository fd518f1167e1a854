"""Token streams to train on: one array per domain, mixed by stated weights."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

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
    """Yield batches of windows for ever, each window from one domain.

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
