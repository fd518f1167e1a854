"""Vocabularies read from the files of tokenizers."""

import base64
import itertools
import json
import os
import time

import pytest

from seme.alignment.vocabulary import Vocabulary, read_vocabulary, read_whole_vocabulary
from tests.tokenizer_folders import plain, write


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
