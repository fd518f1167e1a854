"""Vocabularies of models: tokens by their bytes, read from the files of a folder.

A token is identified by its bytes, however its tokenizer spells them (see
:mod:`seme.alignment.spelling`). Reads tokenizer.json, vocab.json with merges.txt, and tiktoken
files, as data; no tokenizer library is loaded.
"""

import base64
import filecmp
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seme.alignment.spelling import Spelling, is_byte_token, spelling_of
from seme.checkpoint.model_folder import read_object
from seme.checkpoint.regular_file import brief, find_file, read_whole, shown
from seme.checkpoint.tokenizer_files import vocabulary_files

_CONVERSION = (
    "write a tokenizer.json with "
    "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)

_MAX_TIKTOKEN_BYTES = 20_000_000
"""Several times the largest known."""
_BUDGET = 480_000_000
"""Bytes of memory for a tokenizer.json: Gemma's, the largest known, has 33 MB."""
_BESIDE_BUDGET = 40_000_000
"""The same for files that add tokens to it: those of six thousand tokens have 1 MB."""
_MAX_ID = 2**31
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")
_BESIDE = ("added_tokens.json", "tokenizer_config.json")
"""Files that may add tokens to a vocabulary."""
_TIKTOKEN_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,9})")


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
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(
            f"{path} is damaged or incomplete: {type(error).__name__}: {brief(str(error))}"
        ) from error
    except ValueError as error:
        error.add_note(f"while reading {path}")
        raise


def read_whole_vocabulary(folder: Path) -> Vocabulary:
    """Read a vocabulary with the tokens that only other files of its folder add.

    transformers adds those of added_tokens.json and tokenizer_config.json to tokenizer.json's;
    where they disagree, tokenizer.json is right.

    Raises:
        ValueError: As :func:`read_vocabulary` does.
    """
    vocabulary = read_vocabulary(folder)
    used = {*vocabulary.specials.values(), *itertools.chain(*vocabulary.ids.values())}
    beside = {
        content: token_id
        for content, token_id in added_beside(folder).items()
        if token_id not in used and content.encode() not in vocabulary.ids
    }
    return Vocabulary(ids=vocabulary.ids, specials={**beside, **vocabulary.specials})


def added_beside(folder: Path) -> dict[str, int]:
    """Read the tokens that added_tokens.json and tokenizer_config.json add, by content.

    Raises:
        ValueError: If one of the two files is damaged.
    """
    try:
        added = _added_in(folder)
    except (AttributeError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(
            f"added_tokens.json or tokenizer_config.json of {folder} is damaged: "
            f"{type(error).__name__}: {brief(str(error))}"
        ) from error
    for content, token_id in added.items():
        if not isinstance(token_id, int) or not 0 <= token_id < _MAX_ID:
            raise ValueError(
                f"the id of {shown(content)} must be a whole number, got {shown(token_id)}: "
                f"added_tokens.json or tokenizer_config.json of {folder}"
            )
    return added


def have_one_vocabulary(folder: Path, other: Path) -> bool:
    """Return True if two folders hold equal vocabulary files, and add equal tokens beside them.

    Raises:
        ValueError: If a file that adds tokens is damaged, or one is no regular file.
    """
    if folder.resolve() == other.resolve():
        return True
    files, others = vocabulary_files(folder), vocabulary_files(other)
    are_equal = [f.name for f in files] == [f.name for f in others] and all(
        filecmp.cmp(*pair, shallow=False) for pair in zip(files, others, strict=True)
    )
    return are_equal and (
        all(_is_same_file(folder, other, name) for name in _BESIDE)
        or added_beside(folder) == added_beside(other)
    )


def _is_same_file(folder: Path, other: Path, name: str) -> bool:
    file, another = find_file(folder, name), find_file(other, name)
    if file is None or another is None:
        return file is another
    return filecmp.cmp(file, another, shallow=False)


def _tokenizer_file(folder: Path) -> tuple[Path, Callable[[Path], Vocabulary]]:
    if (path := find_file(folder, "tokenizer.json")) is not None:
        return path, _read_tokenizer_json
    path = find_file(folder, "vocab.json")
    if path is not None and find_file(folder, "merges.txt") is not None:
        return path, _read_vocab_json
    tiktoken = sorted(file.name for file in folder.glob("*.tiktoken"))
    for name in (*tiktoken, "tokenizer.model"):
        if (path := find_file(folder, name)) is not None:
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
            f"WordLevel) to be matched with another, got {brief(str(kind))} with the affix "
            f"{shown(affix)}"
        )
    tokens = model["vocab"]
    if kind == "Unigram":
        tokens = {entry[0]: token_id for token_id, entry in enumerate(tokens)}
    added = tokenizer.get("added_tokens") or ()
    return _vocabulary(
        ((spelling.text(token), tokens[token]) for token in sorted(tokens, key=is_byte_token)),
        [(spelling.added_text(_content(t)), t["id"]) for t in added if not t["special"]],
        {_content(t): t["id"] for t in added if t["special"]},
    )


def _read_vocab_json(path: Path) -> Vocabulary:
    tokens, spelling = _read_json(path), Spelling(byte_level=True)
    texts = ((spelling.text(token), token_id) for token, token_id in tokens.items())
    return _vocabulary(texts, [], _specials_in_folder(path, tokens))


def _read_tiktoken(path: Path) -> Vocabulary:
    texts = []
    content = read_whole(path, most=_MAX_TIKTOKEN_BYTES)
    for number, line in enumerate(content.splitlines(), start=1):
        if not (entry := _TIKTOKEN_LINE.fullmatch(line)):
            raise ValueError(
                f"{path} must hold a token in base64 and its id in each line, line {number} is "
                f"another; if it is a sentencepiece model, {_CONVERSION}"
            )
        texts.append((_decoded(path, number, entry[1]), int(entry[2])))
    return _vocabulary(texts, [], _specials_in_folder(path, {}))


def _decoded(path: Path, number: int, token: bytes) -> bytes:
    try:
        return base64.b64decode(token)
    except ValueError as error:
        raise ValueError(f"line {number} of {path} is not in base64: {error}") from error


def _specials_in_folder(path: Path, tokens: Mapping[str, int]) -> dict[str, int]:
    """Read control tokens that a vocabulary lacks from the other files of its folder.

    They are in added_tokens.json (content to id), in tokenizer_config.json, and, named only, in
    special_tokens_map.json, where ``tokens`` knows their ids.
    """
    named = _read_json_if_any(path.with_name("special_tokens_map.json"))
    contents = [content for entry in named.values() for content in _contents(entry)]
    return {
        **{content: tokens[content] for content in contents if content in tokens},
        **_added_in(path.parent),
    }


def _added_in(folder: Path) -> dict[str, int]:
    path = folder / "tokenizer_config.json"
    decoder = _read_json_if_any(path).get("added_tokens_decoder", {})
    for token_id in decoder:
        if not _WHOLE_NUMBER.fullmatch(token_id):
            raise ValueError(
                f"the ids of added_tokens_decoder must be whole numbers, got {shown(token_id)}: "
                f"{path}"
            )
    return {
        **_read_json_if_any(folder / "added_tokens.json"),
        **{_content(token): int(token_id) for token_id, token in decoder.items()},
    }


def _content(token: Mapping[str, Any]) -> str:
    """Return the text of an added token.

    Raises:
        TypeError: If it is no text: the file is damaged.
    """
    content = token["content"]
    if not isinstance(content, str):
        raise TypeError(f"a token's content must be text, got {shown(content)}")
    return content


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
    ids: dict[bytes, list[int]] = {}
    for text, token_id in texts:
        if token_id not in overridden:
            ids.setdefault(text, []).append(token_id)
    for text, token_id in added:
        ids.setdefault(text, []).append(token_id)
    for token_id in (*specials.values(), *itertools.chain.from_iterable(ids.values())):
        if not isinstance(token_id, int) or not 0 <= token_id < _MAX_ID:
            raise ValueError(f"a token's id must be a whole number, got {shown(token_id)}")
    return Vocabulary(
        ids={text: tuple(of_text) for text, of_text in ids.items()}, specials=specials
    )


def _read_json(path: Path, budget: int = _BUDGET) -> dict[str, Any]:
    return read_object(path, of="a tokenizer", budget=budget)


def _read_json_if_any(path: Path) -> dict[str, Any]:
    if find_file(path.parent, path.name) is None:
        return {}
    return _read_json(path, _BESIDE_BUDGET)
