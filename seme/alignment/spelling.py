"""Spelling of text in the token strings of a tokenizer, read from its sections.

Byte-level BPE writes the token " the" as "Ġthe", and each byte as one printable character (the
table of GPT-2's encoder); sentencepiece writes "▁the", and a lone byte as "<0xAB>"; others
write the text itself. The spelling is read from tokenizer.json, never guessed from tokens.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seme.checkpoint.regular_file import brief

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
        raise ValueError(
            f"a tokenizer must spell text in one way, got {brief(', '.join(spellings))}"
        )
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
