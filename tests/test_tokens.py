"""Vocabularies by token text, and the tokens two models share."""

import base64
import itertools
import json
import os
import time

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel

from seme.alignment.spelling import Spelling, is_byte_token, spelling_of
from seme.alignment.tokens import (
    MIN_OVERLAP,
    Vocabulary,
    read_vocabulary,
    read_whole_vocabulary,
    shared_tokens,
)

TEXT = ["the cat sat on the mat, and the dog — a naïve one — sat on the cat in the hut"] * 20
SPECIAL = "<|end|>"


def trained(model, trainer, pre_tokenizer, decoder):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_level_bpe(size=330):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), trainer, level, decoders.ByteLevel())


def metaspace_bpe():
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=[SPECIAL], show_progress=False)
    space = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(models.BPE(byte_fallback=True), trainer, *space)


def metaspace_unigram():
    # the trainer's result varies from run to run: the pieces of the other, in another order
    pieces = sorted(metaspace_bpe().get_vocab())
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces]))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


def stored(tokenizer, folder):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_vocabulary(folder)


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def plain(folder, vocab, added=(), **model):
    tokenizer = {"added_tokens": list(added), "model": {"type": "WordLevel", "vocab": vocab}}
    tokenizer["model"] |= model
    return write(folder, tokenizer__json=tokenizer)


def vocabulary(*texts, **specials):
    ids = {text.encode(): (token_id,) for token_id, text in enumerate(texts)}
    return Vocabulary(ids=ids, specials=specials)


def shared(pivot, source, n_pivot=100, n_source=100, width=1):
    return shared_tokens(pivot, source, n_pivot=n_pivot, n_source=n_source, width=width)


@pytest.mark.parametrize("other", [metaspace_bpe, metaspace_unigram])
def test_byte_level_and_sentencepiece_tokens_match_by_text(other, tmp_path):
    pivot_tokenizer, source_tokenizer = byte_level_bpe(), other()
    actual = shared(
        stored(pivot_tokenizer, tmp_path / "a"),
        stored(source_tokenizer, tmp_path / "b"),
        n_pivot=400,
        n_source=400,
    )
    pairs = dict(zip(actual.pivot_rows.tolist(), actual.source_rows.tolist(), strict=True))
    assert pairs[pivot_tokenizer.token_to_id(SPECIAL)] == source_tokenizer.token_to_id(SPECIAL)
    written = {
        pivot_tokenizer.decode([p]): source_tokenizer.id_to_token(s) for p, s in pairs.items()
    }
    assert written.items() >= {" the": "▁the", "t": "t", ",": ",", " ": "▁"}.items()
    assert all(spelled.replace("▁", " ") == text for text, spelled in written.items() if text)
    assert actual.overlap == len(pairs) / pivot_tokenizer.get_vocab_size()


def test_shared_tokens_of_zoo_models_decode_to_equal_text(repository):
    folders = [repository / "eval/zoo/models" / name for name in ("base", "foreign")]
    pivot_tokenizer, source_tokenizer = (
        Tokenizer.from_file(str(f / "tokenizer.json")) for f in folders
    )
    actual = shared(*map(read_vocabulary, folders), n_pivot=1024, n_source=1280, width=160)
    decoded = [
        [t.decode([row], skip_special_tokens=False) for row in rows.tolist()]
        for t, rows in (
            (pivot_tokenizer, actual.pivot_rows),
            (source_tokenizer, actual.source_rows),
        )
    ]
    assert decoded[0] == decoded[1]
    common = pivot_tokenizer.get_vocab().keys() & source_tokenizer.get_vocab().keys()
    assert len(decoded[0]) == len(common) > 900
    assert actual.overlap == len(common) / 1024


def test_shared_rows_are_sorted_by_pivot_row():
    pivot = Vocabulary(ids={b"a": (3,), b"b": (2,), b"c": (1,)}, specials={"d": 0})
    actual = shared(pivot, vocabulary("x", "a", "b", "c", d=4))
    assert actual.pivot_rows.tolist() == [0, 1, 2, 3]
    assert actual.source_rows.tolist() == [4, 3, 2, 1]
    assert (actual.pivot_rows.dtype, actual.overlap) == (torch.int64, 1.0)


def test_overlap_is_relative_to_the_pivot_vocabulary_with_specials():
    pivot, source = vocabulary(*"abcdef", end=6, pad=7), vocabulary(*"abcd", end=9)
    actual = shared(pivot, source)
    assert actual.overlap == 5 / 8
    assert (actual.pivot_rows[-1], actual.source_rows[-1]) == (6, 9)


def test_special_tokens_do_not_match_plain_text():
    actual = shared(vocabulary(*"abcd", e=4), vocabulary(*"abcde"))
    assert actual.pivot_rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("pivot", "source", "n_pivot", "n_source", "n_shared", "overlap"),
    [
        ("abcdef", "abcdefg", 4, 9, 4, 4 / 6),  # ids beyond the rows of a head are ignored
        ("abcdef", "abcdefg", 9, 4, 4, 4 / 6),
        ("abc", "abc", 8, 8, 8, 1.0),  # one vocabulary and size: padding rows are shared
        ("abcd", "abcd", 8, 9, 4, 1.0),  # other sizes: tokens only
    ],
)
def test_shared_rows_are_within_both_heads_and_include_padding_only_of_equal_heads(
    pivot, source, n_pivot, n_source, n_shared, overlap
):
    actual = shared(vocabulary(*pivot), vocabulary(*source), n_pivot, n_source)
    assert actual.pivot_rows.tolist() == actual.source_rows.tolist() == list(range(n_shared))
    assert actual.overlap == overlap


def test_plain_token_has_precedence_over_a_byte_token(tmp_path):
    tokens = {"<0x61>": 0, "a": 1, "<0x0A>": 2}
    folder = plain(tmp_path, tokens, type="BPE", merges=[], byte_fallback=True)
    actual = read_vocabulary(folder)
    assert actual.ids == {b"a": (1, 0), b"\n": (2,)}
    twice = shared(actual, vocabulary("a", "\n", "c", "d"), width=0)
    assert twice.pivot_rows.tolist() == [1, 2]


def test_added_tokens_are_text_unless_special(tmp_path):
    added = [
        {"id": 7, "content": "  ", "special": False},
        {"id": 0, "content": "<s>", "special": True},
        {"id": 1, "content": "<tool>", "special": False},
    ]
    actual = read_vocabulary(plain(tmp_path, {"<s>": 0, "<tool>": 1, "a": 2}, added))
    assert actual == Vocabulary(
        ids={b"a": (2,), b"  ": (7,), b"<tool>": (1,)}, specials={"<s>": 0}
    )
    assert len(actual) == 4


def test_unigram_token_id_is_its_position(tmp_path):
    folder = plain(tmp_path, [["a", -1.0], ["b", -2.0]], type="Unigram")
    assert read_vocabulary(folder).ids == {b"a": (0,), b"b": (1,)}


def test_gpt2_files_are_byte_level_with_specials(tmp_path):
    write(
        tmp_path,
        vocab__json={"Ġthe": 0, "<e>": 1, "<p>": 2, "<m>": 3},
        merges__txt="#version: 0.2",
        special_tokens_map__json={
            "eos_token": "<e>",
            "pad_token": {"content": "<p>"},
            "additional_special_tokens": ["<m>"],
        },
        added_tokens__json={"<x>": 4},
        tokenizer_config__json={"added_tokens_decoder": {"5": {"content": "<y>"}}},
    )
    specials = {"<e>": 1, "<p>": 2, "<m>": 3, "<x>": 4, "<y>": 5}
    assert read_vocabulary(tmp_path) == Vocabulary(ids={b" the": (0,)}, specials=specials)


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tokenizer.model"])
def test_tiktoken_file_is_read(name, tmp_path):
    tokens = [b" the", b"\xe2\x96", b"a"]
    lines = [f"{base64.b64encode(t).decode()} {i}" for i, t in enumerate(tokens)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    expected = {b" the": (0,), b"\xe2\x96": (1,), b"a": (2,)}
    assert read_vocabulary(tmp_path) == Vocabulary(ids=expected, specials={})


def test_tokenizer_json_has_precedence(tmp_path):
    write(tmp_path, vocab__json={"x": 0}, merges__txt="", tokenizer__model="eA== 0")
    assert read_vocabulary(plain(tmp_path, {"a": 0})).ids == {b"a": (0,)}


def test_sentencepiece_model_alone_is_refused_with_the_conversion(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ValueError, match=r"line 1 is another.*AutoTokenizer.*save_pretrained"):
        read_vocabulary(tmp_path)


def test_folder_without_a_tokenizer_is_refused(tmp_path):
    write(tmp_path, vocab__json={"a": 0})  # without merges.txt its spelling is unknown
    with pytest.raises(ValueError, match=r"no tokenizer in .*looked for tokenizer\.json"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"type": "WordPiece"}, "got WordPiece"),
        ({"type": "BPE", "end_of_word_suffix": "</w>"}, "got BPE with the affix '</w>'"),
        ({"type": None}, "got None"),
    ],
)
def test_unsupported_tokenizer_models_are_refused(model, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        read_vocabulary(plain(tmp_path, {"a": 0}, **model))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be parsed: Expecting property name"),
        ("[]", r"must hold a JSON object, got \[\]"),
        ({"model": {"type": "Unigram", "vocab": [[]]}}, "damaged or incomplete: IndexError"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 10**30}}},
            "must be a whole number, got 1000",
        ),
        ({"model": {"type": "BPE"}}, "damaged or incomplete: KeyError"),
        ({"model": {"type": "BPE", "vocab": {"a": "0"}}}, "must be a whole number, got '0'"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "must be a whole number, got -1"),
    ],
)
def test_damaged_tokenizer_file_is_named(content, named, tmp_path):
    with pytest.raises(ValueError, match=named) as caught:
        read_vocabulary(write(tmp_path, tokenizer__json=content))
    assert "tokenizer.json" in "".join(
        [str(caught.value), *getattr(caught.value, "__notes__", [])]
    )


def test_too_small_overlap_is_refused():
    pivot = vocabulary(*map(str, range(40)))
    assert shared(pivot, vocabulary(*"abcd0123"), width=1).overlap == MIN_OVERLAP
    with pytest.raises(ValueError, match=r"least 10.0%.* share 7.5%: 3 tokens .* 40 and .* 8;"):
        shared(pivot, vocabulary(*"abcde012"))


def test_fewer_than_four_shared_tokens_per_dimension_are_refused():
    pivot, source = vocabulary(*"abcdefgh"), vocabulary(*"abcdefghi")
    assert len(shared(pivot, source, width=2).pivot_rows) == 8
    with pytest.raises(ValueError, match=r"width 3 .* 12, .* share 8 tokens"):
        shared(pivot, source, width=3)


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


def test_many_tokens_of_one_text_take_linear_time(tmp_path):
    twins = {"".join(s): i for i, s in enumerate(itertools.product(" \u2581", repeat=14))}
    tokenizer = {
        "model": {"type": "BPE", "vocab": twins},
        "decoder": {"type": "Metaspace", "replacement": "\u2581"},
    }
    started = time.process_time()
    vocabulary = read_vocabulary(write(tmp_path, tokenizer__json=tokenizer))
    assert vocabulary.ids == {b" " * 14: tuple(range(2**14))}
    assert time.process_time() - started < 0.5  # 2 s where every id copies those before it


@pytest.mark.parametrize("line", [b"YWI= 9999999999", b"YWI 1", b"YQ== 1\n\xff"])
def test_damaged_tiktoken_lines_are_named(tmp_path, line):
    (tmp_path / "x.tiktoken").write_bytes(line)
    with pytest.raises(ValueError, match=r"line [12] (is another|of .* is not in base64)"):
        read_vocabulary(tmp_path)


def test_a_pipe_is_no_tokenizer(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="it is a named pipe"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("token_id", ["", "²", "-1", "1.5", "1" * 11])
def test_ids_of_added_tokens_must_be_whole_numbers(token_id, tmp_path):
    write(
        tmp_path,
        vocab__json={"x": 0},
        merges__txt="",
        tokenizer_config__json={"added_tokens_decoder": {token_id: {"content": "<y>"}}},
    )
    with pytest.raises(
        ValueError, match=r"must be whole numbers, got .*tokenizer_config\.json"
    ):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
def test_the_content_of_an_added_token_must_be_text(place, tmp_path):
    added = {"id": 1, "content": None, "special": True}
    inside = [added] if place == "tokenizer.json" else []
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": model, "added_tokens": inside})
    )
    beside = {} if inside else {"added_tokens_decoder": {"1": added}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    with pytest.raises(ValueError, match="content must be text, got None"):
        read_whole_vocabulary(tmp_path)


def test_a_file_of_added_tokens_has_a_budget_of_its_own(tmp_path):
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    (tmp_path / "tokenizer_config.json").write_text('{"a": [' + "[]," * 300_000 + "1]}")
    with pytest.raises(ValueError, match=r"tokenizer_config.json is too large.*at most 40 MB"):
        read_whole_vocabulary(tmp_path)
