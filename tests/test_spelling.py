"""Spellings of tokens by byte-level and sentencepiece tokenizers."""

import pytest
from tokenizers import decoders
from tokenizers.pre_tokenizers import ByteLevel

from seme.alignment.spelling import Spelling, is_byte_token, spelling_of

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
WRITES_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
READS_SPACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}


def spelling(normalizer=None, pre_tokenizer=None, decoder=None, **model):
    return spelling_of(
        {
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "decoder": decoder,
            "model": model,
        }
    )


def test_byte_level_alphabet_equals_tokenizers():
    alphabet = ByteLevel.alphabet()
    read = {Spelling(byte_level=True).text(character) for character in alphabet}
    assert read == {bytes([byte]) for byte in range(256)}
    text = "".join(map(chr, range(1, 300))) + "日本 🙂"
    (spelled, _), *_ = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert Spelling(byte_level=True).text(spelled) == text.encode()


@pytest.mark.parametrize("token", ["a b", "\n\n", "日本", "Ġ日", "\xad", "\x7f"])
def test_byte_level_token_outside_the_alphabet_is_literal(token):
    actual = Spelling(byte_level=True).text(token)
    assert actual == token.encode() == decoders.ByteLevel().decode([token]).encode()


def test_sentencepiece_space_and_byte_tokens_are_decoded():
    spelled = Spelling(byte_level=False, space="▁", byte_tokens=True)
    assert [spelled.text(t) for t in ("▁the", "▁▁", "<0x0A>", "<0xe2>")] == [
        b" the", b"  ", b"\n", b"\xe2",
    ]  # fmt: skip
    assert spelled.text("<0x0A>x") == b"<0x0A>x"
    assert Spelling(byte_level=False, space="▁").text("<0x0A>") == b"<0x0A>"


def test_added_token_text_ignores_byte_level_but_not_spaces():
    assert Spelling(byte_level=True).added_text("é Ġ") == "é Ġ".encode()
    assert Spelling(byte_level=False, space="▁").added_text("▁▁") == b"  "


def test_byte_tokens_are_hexadecimal():
    assert is_byte_token("<0xAB>")
    assert not any(is_byte_token(token) for token in ("<0xAG>", "<0xAB>x", " <0xAB>", "ab"))


@pytest.mark.parametrize(
    ("sections", "byte_level", "space"),
    [
        ({"normalizer": BYTE_LEVEL}, True, " "),
        ({"pre_tokenizer": BYTE_LEVEL}, True, " "),
        ({"decoder": BYTE_LEVEL}, True, " "),
        ({"pre_tokenizer": METASPACE}, False, "▁"),
        ({"decoder": METASPACE}, False, "▁"),
        ({"normalizer": WRITES_SPACE, "decoder": READS_SPACE}, False, "▁"),
    ],
)
def test_byte_level_and_space_marker_are_recognised_in_any_section(sections, byte_level, space):
    assert spelling(**sections) == Spelling(byte_level=byte_level, space=space)


def test_nested_sequences_are_recognised():
    digits = {"type": "Digits", "individual_digits": True}
    inner = {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]}
    outer = {"type": "Sequence", "pretokenizers": [inner]}
    assert spelling(pre_tokenizer=outer).byte_level
    assert spelling(normalizer={"type": "Sequence", "normalizers": [WRITES_SPACE]}).space == "▁"
    assert spelling(decoder={"type": "Sequence", "decoders": [READS_SPACE]}).space == "▁"


def test_custom_space_marker_is_recognised():
    assert spelling(decoder=METASPACE | {"replacement": "_"}).text("_the") == b" the"


def test_unrelated_replacements_are_ignored():
    other = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    regex = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    assert spelling(normalizer=other) == spelling(normalizer=regex) == spelling()
    assert spelling().text("▁the") == "▁the".encode()


def test_byte_fallback_is_read_from_model_or_decoder():
    assert spelling(byte_fallback=True).byte_tokens
    assert spelling(decoder={"type": "ByteFallback"}).byte_tokens
    assert not spelling(byte_fallback=False).byte_tokens


def test_contradicting_spellings_are_refused():
    with pytest.raises(ValueError, match="in one way, got spaces as '▁', byte-level"):
        spelling(pre_tokenizer=BYTE_LEVEL, decoder=METASPACE)
    with pytest.raises(ValueError, match="got spaces as '_', spaces as '▁'"):
        spelling(pre_tokenizer=METASPACE | {"replacement": "_"}, decoder=METASPACE)
