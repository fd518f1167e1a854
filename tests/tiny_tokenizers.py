"""Tokenizers of a few letters and joined pairs of them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models


def tokenizer_of(
    tokens: Sequence[str], folder: Path, *, pairs: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write a byte-pair tokenizer: ids are places in ``tokens``, then those of joined pairs.

    ``<s>``, which must be among the tokens, is a control token.
    """
    every = [*tokens, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(every)}, list(pairs)))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>"])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
