"""Match the tokens of two vocabularies that encode the same bytes.

A token is identified by its bytes, however its tokenizer spells them. Byte-level BPE writes the
token " the" as "Ġthe", and each byte as one printable character (the table of GPT-2's encoder);
sentencepiece writes "▁the", and a lone byte as "<0xAB>"; others write the text itself. The
spelling is read from the sections of tokenizer.json, never guessed from tokens. Reads
tokenizer.json, vocab.json with merges.txt, and tiktoken files, as data; no tokenizer library is
loaded.
"""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MIN_TOKENS_PER_DIMENSION = 4
"""Shared tokens that a map between residual streams needs for each dimension of the width."""
MIN_OVERLAP = 0.1
"""Least share of the pivot's vocabulary that a source must share; a map needs that many."""

_CONVERSION = (
    "write a tokenizer.json with "
    "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)

_TIKTOKEN_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of one tokenizer."""

    ids: Mapping[bytes, tuple[int, ...]]
    """Ids by the bytes of a token: several where an ordinary and a byte token have the same
    bytes; ordinary ones first."""
    specials: Mapping[str, int]
    """Ids of control tokens (end of text, padding) by their literal content, which is no text
    of the corpus."""

    def __len__(self) -> int:
        return sum(map(len, self.ids.values())) + len(self.specials)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTokens:
    """Rows of the tokens that two models share by their text."""

    pivot_rows: Tensor
    """Row in the pivot's head and embedding, ascending, int64."""
    source_rows: Tensor
    """Row of the same token in the source's, int64."""
    overlap: float
    """Share of the pivot's vocabulary that is in the source's, in [0, 1]."""


def shared_tokens(
    pivot: Vocabulary,
    source: Vocabulary,
    *,
    n_pivot: int,
    n_source: int,
    width: int,
) -> SharedTokens:
    """Match the tokens of two models by their text.

    Models of one vocabulary and equally many rows share all of them, padding included.

    Args:
        pivot: Vocabulary of the pivot.
        source: Vocabulary of the source.
        n_pivot: Rows of the pivot's head. Ids at or beyond it have no row and are left out.
        n_source: Rows of the source's head.
        width: Width of the residual stream to be mapped, the larger one where two differ.

    Raises:
        ValueError: If less than ``MIN_OVERLAP`` of the pivot's vocabulary or fewer than
            ``4 * width`` tokens are shared.
    """
    if pivot == source and n_pivot == n_source:
        rows = torch.arange(n_pivot)
        return SharedTokens(pivot_rows=rows, source_rows=rows, overlap=1.0)
    pairs = sorted(
        (of_pivot, of_source)
        for of_pivot, of_source in _pairs(pivot, source)
        if of_pivot < n_pivot and of_source < n_source
    )
    overlap = len(pairs) / len(pivot)
    counted = f"{len(pairs)} tokens of the pivot's {len(pivot)} and the source's {len(source)}"
    if overlap < MIN_OVERLAP:
        raise ValueError(
            f"the models must share at least {MIN_OVERLAP:.1%} of the pivot's vocabulary, they "
            f"share {overlap:.1%}: {counted}; choose a source with a closer tokenizer"
        )
    if len(pairs) < MIN_TOKENS_PER_DIMENSION * width:
        raise ValueError(
            f"a map of width {width} needs at least {MIN_TOKENS_PER_DIMENSION} shared tokens "
            f"per dimension, {MIN_TOKENS_PER_DIMENSION * width}, the models share {counted}; "
            "choose a source whose tokenizer has more tokens in common with the pivot's"
        )
    rows = torch.tensor(pairs, dtype=torch.int64)
    return SharedTokens(
        pivot_rows=rows[:, 0].contiguous(),
        source_rows=rows[:, 1].contiguous(),
        overlap=overlap,
    )


def _pairs(pivot: Vocabulary, source: Vocabulary) -> Iterator[tuple[int, int]]:
    for text, ids in pivot.ids.items():
        yield from zip(ids, source.ids.get(text, ()), strict=False)
    for content, token_id in pivot.specials.items():
        if content in source.specials:
            yield token_id, source.specials[content]


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary in a model's folder.

    Args:
        folder: Holds, in the order in which they are looked for, tokenizer.json (BPE, Unigram
            or WordLevel), vocab.json with merges.txt (byte-level BPE, the files of GPT-2), or a
            tiktoken file (``*.tiktoken``, or tokenizer.model in lines of base64).

    Raises:
        ValueError: If there is none of them, one of another kind, or a damaged one.
    """
    path, read = _tokenizer_file(folder)
    try:
        return read(path)
    except (AttributeError, KeyError, TypeError, UnicodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or incomplete: {error!r}") from error
    except ValueError as error:
        error.add_note(f"while reading {path}")
        raise


def _tokenizer_file(folder: Path) -> tuple[Path, Callable[[Path], Vocabulary]]:
    if (path := folder / "tokenizer.json").is_file():
        return path, _read_tokenizer_json
    if (path := folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return path, _read_vocab_json
    for path in (*sorted(folder.glob("*.tiktoken")), folder / "tokenizer.model"):
        if path.is_file():
            return path, _read_tiktoken
    raise ValueError(
        f"no tokenizer in {folder}: looked for tokenizer.json, vocab.json with merges.txt, "
        f"*.tiktoken and tokenizer.model; {_CONVERSION}"
    )


def _read_tokenizer_json(path: Path) -> Vocabulary:
    tokenizer = _read_json(path)
    model, spelling = tokenizer["model"], spelling_of(tokenizer)
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    affix = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if kind not in ("BPE", "Unigram", "WordLevel") or affix:
        raise ValueError(
            f"{path} must hold a model whose tokens are text (BPE without affixes, Unigram, "
            f"WordLevel) to be matched with another, got {kind} with the affix {affix!r}"
        )
    tokens = model["vocab"]
    if kind == "Unigram":
        tokens = {token: token_id for token_id, (token, _) in enumerate(tokens)}
    added = tokenizer.get("added_tokens") or ()
    return _vocabulary(
        ((spelling.text(token), tokens[token]) for token in sorted(tokens, key=is_byte_token)),
        [(spelling.added_text(t["content"]), t["id"]) for t in added if not t["special"]],
        {t["content"]: t["id"] for t in added if t["special"]},
    )


def _read_vocab_json(path: Path) -> Vocabulary:
    tokens, spelling = _read_json(path), Spelling(byte_level=True)
    texts = ((spelling.text(token), token_id) for token, token_id in tokens.items())
    return _vocabulary(texts, [], _specials_in_folder(path, tokens))


def _read_tiktoken(path: Path) -> Vocabulary:
    texts = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not (entry := _TIKTOKEN_LINE.fullmatch(line)):
            raise ValueError(
                f"{path} must hold a token in base64 and its id in each line, line {number} is "
                f"another; if it is a sentencepiece model, {_CONVERSION}"
            )
        texts.append((base64.b64decode(entry[1]), int(entry[2])))
    return _vocabulary(texts, [], _specials_in_folder(path, {}))


def _specials_in_folder(path: Path, tokens: Mapping[str, int]) -> dict[str, int]:
    """Read control tokens that a vocabulary lacks from the other files of its folder.

    They are in added_tokens.json (content to id), in tokenizer_config.json, and, named only, in
    special_tokens_map.json, where ``tokens`` knows their ids.
    """
    config = _read_json_if_any(path.with_name("tokenizer_config.json"))
    decoder = config.get("added_tokens_decoder", {})
    named = _read_json_if_any(path.with_name("special_tokens_map.json"))
    contents = [content for entry in named.values() for content in _contents(entry)]
    return {
        **{content: tokens[content] for content in contents if content in tokens},
        **_read_json_if_any(path.with_name("added_tokens.json")),
        **{token["content"]: int(token_id) for token_id, token in decoder.items()},
    }


def _contents(entry: Any) -> list[str]:  # noqa: ANN401
    """List the tokens of an entry of special_tokens_map.json: text, an object, or a list."""
    if isinstance(entry, list):
        return [content for inner in entry for content in _contents(inner)]
    return [entry["content"] if isinstance(entry, dict) else entry]


def _vocabulary(
    texts: Iterable[tuple[bytes, int]], added: list[tuple[bytes, int]], specials: dict[str, int]
) -> Vocabulary:
    """Gather ids by text; an added or special token overrides the model's of the same id."""
    overridden = {*specials.values(), *(token_id for _, token_id in added)}
    ids: dict[bytes, tuple[int, ...]] = {}
    for text, token_id in texts:
        if token_id not in overridden:
            ids[text] = (*ids.get(text, ()), token_id)
    for text, token_id in added:
        ids[text] = (*ids.get(text, ()), token_id)
    for token_id in (*specials.values(), *itertools.chain.from_iterable(ids.values())):
        if not isinstance(token_id, int) or token_id < 0:
            raise ValueError(f"a token's id must be a whole number, got {token_id!r}")
    return Vocabulary(ids=ids, specials=specials)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _read_json_if_any(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_OUTSIDE = "\uffff"
"""Translation of a character outside the byte-level alphabet: not a byte."""


def _byte_alphabet() -> dict[int, str]:
    """Map GPT-2's characters to their bytes, as characters of Latin-1.

    Printable bytes map to themselves; the others, in order, are moved up from U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = (byte for byte in range(0x100) if byte not in printable)
    alphabet = {byte: chr(byte) if byte in printable else _OUTSIDE for byte in range(0x100)}
    return alphabet | {0x100 + place: chr(byte) for place, byte in enumerate(moved)}


_BYTE_ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """Spelling of text in the token strings of one tokenizer."""

    byte_level: bool
    space: str = " "
    """Text of a space, unless byte-level."""
    byte_tokens: bool = False
    """Read "<0xAB>" as the byte AB."""

    def text(self, token: str) -> bytes:
        """Decode a token; one with a character outside the byte alphabet is literal."""
        if self.byte_level:
            try:
                return token.translate(_BYTE_ALPHABET).encode("latin-1")
            except UnicodeEncodeError:
                return token.encode()
        if self.byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        return self.added_text(token)

    def added_text(self, content: str) -> bytes:
        """Decode a token added to the model: its text, with the mark of a space replaced."""
        return content.replace(self.space, " ").encode()


def is_byte_token(token: str) -> bool:
    """Return True if a token is a byte as written by sentencepiece's byte fallback."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def spelling_of(tokenizer: Mapping[str, Any]) -> Spelling:
    """Read the spelling of a parsed tokenizer.json from its sections.

    Raises:
        ValueError: If its sections are those of several spellings.
    """
    steps = [
        step
        for section in ("normalizer", "pre_tokenizer", "decoder")
        for step in _flat(tokenizer.get(section))
    ]
    spaces = {space for step in steps if (space := _space_mark(step)) is not None}
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    if byte_level + len(spaces) > 1:
        spellings = [
            *sorted(f"spaces as {space!r}" for space in spaces),
            *["byte-level"] * byte_level,
        ]
        raise ValueError(f"a tokenizer must spell text in one way, got {', '.join(spellings)}")
    byte_fallback = any(step["type"] == "ByteFallback" for step in steps)
    return Spelling(
        byte_level=byte_level,
        space=spaces.pop() if spaces else " ",
        byte_tokens=byte_fallback or bool(tokenizer["model"].get("byte_fallback")),
    )


def _flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield a section's steps, those inside sequences one by one."""
    if step is None:
        return
    if step["type"] != "Sequence":
        yield step
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in step.get(key, ()):
            yield from _flat(inner)


def _space_mark(step: Mapping[str, Any]) -> str | None:
    """Return the character that a step encodes or decodes as a space; None if none."""
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    if step["type"] == "Replace":
        pattern: str | None = step["pattern"].get("String")
        if pattern == " ":
            return str(step["content"])
        if step["content"] == " ":
            return pattern
    return None
