"""Long held-out passages: whole lines, of the split only, mostly unseen, none overlapping."""

import json

import pytest

from scripts.smol.material import SMOL, read_recipe
from scripts.smol.passages import passages
from scripts.zoo.texts import Document, split_of

_LIMITS = {"shortest": 60, "longest": 120, "seed": 1}


def _document(n, split, lines=None):
    key = next(f"{n}-{i}" for i in range(1000) if split_of(f"{n}-{i}") == split)
    text = "\n".join(lines or [f"document {n} line {i} of {split} only" for i in range(12)])
    return Document(domain="french", key=key, text=text)


@pytest.fixture
def documents():
    return [_document(n, split) for n in range(4) for split in ("train", "validation", "test")]


def test_passages_are_whole_lines_of_the_split(documents):
    held = {d.key: d.text for d in documents if d.split == "test"}
    drawn = passages(documents, "test", count=8, **_LIMITS)
    assert len(drawn) == 8
    assert {item["document"] for item in drawn} == set(held)
    for item in drawn:
        assert 60 < len(item["text"]) + 1 <= 120
        assert f"\n{item['text']}\n" in f"\n{held[item['document']]}\n"


def test_no_line_is_in_two_passages(documents):
    drawn = passages(documents, "test", count=8, **_LIMITS)
    lines = [line for item in drawn for line in item["text"].split("\n")]
    assert len(lines) == len(set(lines))


def test_lines_that_were_trained_on_make_a_quarter_at_most():
    shared = [f"a line that two documents share {i}" for i in range(12)]
    training, held = _document(0, "train", shared), _document(1, "test", shared)
    with pytest.raises(ValueError, match="expected 1 test passages from french, got 0"):
        passages([training, held], "test", count=1, **_LIMITS)


def test_too_few_documents_are_an_error(documents):
    with pytest.raises(ValueError, match="expected 99 test passages"):
        passages(documents, "test", count=99, **_LIMITS)


@pytest.mark.parametrize("domain", ["code", "french", "german", "spanish", "english", "polish"])
def test_committed_passages_keep_the_recipe(domain):
    rows = (SMOL / "tasks" / f"{domain}_bits.jsonl").read_text(encoding="utf-8").splitlines()
    items, limits = [json.loads(row) for row in rows], read_recipe()["passages"]
    for split in ("test", "validation"):
        of_split = [item for item in items if item["split"] == split]
        assert len(of_split) == limits["per_split"]
        assert {split_of(item["document"]) for item in of_split} == {split}
    assert all(limits["shortest"] <= len(i["text"]) <= limits["longest"] for i in items)
