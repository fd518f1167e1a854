"""What bytes a token stands for."""

import pytest
from tokenizers import decoders
from tokenizers.pre_tokenizers import ByteLevel

from seme.alignment.tokens import Spelling, is_byte_token, spelling_of

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


def test_byte_level_spells_each_byte_as_one_character():
    assert Spelling(byte_level=True).text("Ġthe") == b" the"
    assert Spelling(byte_level=True).text("ÃĹ") == b"\xc3\x97"
    assert Spelling(byte_level=True).text("Ċ") == b"\n"


def test_the_alphabet_is_the_tokenizers_library_s():
    alphabet = ByteLevel.alphabet()
    read = {Spelling(byte_level=True).text(character) for character in alphabet}
    assert read == {bytes([byte]) for byte in range(256)}
    text = "".join(map(chr, range(1, 300))) + "日本 🙂"
    (spelled, _), *_ = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert Spelling(byte_level=True).text(spelled) == text.encode()


@pytest.mark.parametrize("token", ["a b", "\n\n", "日本", "Ġ日", "\xad", "\x7f"])
def test_a_byte_level_token_outside_the_alphabet_is_literal_as_in_the_library(token):
    found = Spelling(byte_level=True).text(token)
    assert found == token.encode() == decoders.ByteLevel().decode([token]).encode()


def test_sentencepiece_marks_spaces_and_lone_bytes():
    spelled = Spelling(byte_level=False, space="▁", byte_tokens=True)
    assert [spelled.text(t) for t in ("▁the", "▁▁", "<0x0A>", "<0xe2>")] == [
        b" the", b"  ", b"\n", b"\xe2",
    ]  # fmt: skip
    assert spelled.text("<0x0A>x") == b"<0x0A>x"
    assert Spelling(byte_level=False, space="▁").text("<0x0A>") == b"<0x0A>"


def test_an_added_token_is_text_in_either_spelling():
    assert Spelling(byte_level=True).added_text("é Ġ") == "é Ġ".encode()
    assert Spelling(byte_level=False, space="▁").added_text("▁▁") == b"  "


def test_byte_tokens_look_like_hexadecimal():
    assert is_byte_token("<0xAB>")
    assert not any(is_byte_token(token) for token in ("<0xAG>", "<0xAB>x", " <0xAB>", "ab"))


@pytest.mark.parametrize("section", ["normalizer", "pre_tokenizer", "decoder"])
def test_byte_level_is_found_in_any_section(section):
    assert spelling(**{section: BYTE_LEVEL}) == Spelling(byte_level=True)


def test_steps_inside_sequences_are_found():
    digits = {"type": "Digits", "individual_digits": True}
    inner = {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]}
    outer = {"type": "Sequence", "pretokenizers": [inner]}
    assert spelling(pre_tokenizer=outer).byte_level
    assert spelling(normalizer={"type": "Sequence", "normalizers": [WRITES_SPACE]}).space == "▁"
    assert spelling(decoder={"type": "Sequence", "decoders": [READS_SPACE]}).space == "▁"


@pytest.mark.parametrize(
    "sections",
    [
        {"pre_tokenizer": METASPACE},
        {"decoder": METASPACE},
        {"normalizer": WRITES_SPACE, "decoder": READS_SPACE},
    ],
)
def test_the_mark_of_a_space_is_read_from_any_section(sections):
    assert spelling(**sections) == Spelling(byte_level=False, space="▁")


def test_a_mark_other_than_sentencepiece_s_is_followed():
    assert spelling(decoder=METASPACE | {"replacement": "_"}).text("_the") == b" the"


def test_replacements_that_have_nothing_to_do_with_spaces_are_none():
    other = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    regex = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    assert spelling(normalizer=other) == spelling(normalizer=regex) == spelling()
    assert spelling().text("▁the") == "▁the".encode()


def test_byte_fallback_is_stated_by_the_model_or_the_decoder():
    assert spelling(byte_fallback=True).byte_tokens
    assert spelling(decoder={"type": "ByteFallback"}).byte_tokens
    assert not spelling(byte_fallback=False).byte_tokens


def test_two_spellings_at_once_are_an_error():
    with pytest.raises(ValueError, match="in one way, got spaces as '▁', byte-level"):
        spelling(pre_tokenizer=BYTE_LEVEL, decoder=METASPACE)
    with pytest.raises(ValueError, match="got spaces as '_', spaces as '▁'"):
        spelling(pre_tokenizer=METASPACE | {"replacement": "_"}, decoder=METASPACE)
