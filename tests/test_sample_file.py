"""Sample files: read as they were written, damaged ones named."""

import gzip
import re

import numpy as np
import pytest

from eval.records import Score, write_record
from eval.sample_file import Sample, read_samples
from tests.made_up_runs import make_record

SCORE = Score(value=0.5, stderr=0.1, n=4, raw=1.0, raw_metric="bpb", higher_is_better=False)
RECORD = make_record("ties", {"zebra": SCORE, "ape": SCORE})
SAMPLES = {
    "zebra": [Sample(doc_id=0, doc_hash="h", value=0.1, loglikelihood=-3.25, n_bytes=7)],
    "ape": [
        Sample(doc_id=0, doc_hash="g", value=1.0),
        Sample(doc_id=1, doc_hash="i", value=0.0),
    ],
}


def test_samples_round_trip(tmp_path):
    path = write_record(tmp_path, RECORD, SAMPLES)
    tables = read_samples(path.parent)
    assert list(tables) == ["zebra", "ape"]
    zebra, ape = tables["zebra"], tables["ape"]
    assert (zebra.values.tolist(), ape.values.tolist()) == ([0.1], [1.0, 0.0])
    assert ape.doc_hashes == ("g", "i")
    assert (zebra.loglikelihoods.tolist(), zebra.n_bytes.tolist()) == ([-3.25], [7])
    assert np.isnan(ape.loglikelihoods).all()
    assert not ape.n_bytes.any()


def test_samples_of_a_task_may_be_interleaved(tmp_path):
    path = write_record(tmp_path, RECORD, SAMPLES).with_name("samples.jsonl.gz")
    first, *others = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(others[0] + first + others[1]))
    tables = read_samples(path)
    assert tables["ape"].doc_hashes == ("g", "i")
    assert tables["zebra"].values.tolist() == [0.1]


def packed(text):
    """Compressed alike at every time of day: test runners must collect the same names."""
    return gzip.compress(text, mtime=0)


PACKED = packed(b'{"task": "a", "doc_id": 0, "doc_hash": "h", "value": 1}\n' * 99)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(b'{"task": "a", "doc_id"'), "expected `:` at line 1"),
        (packed(b'{"task": "a"}'), r"missing keys \['doc_id'\]"),
        (packed(b"7"), "expected an object, got 7"),
        (packed(b'{"task": "a", "doc_id": 0, "doc_hash": "h", "value": "x"}'), "value .*'x'"),
        (packed(b'{"task": "a", "doc_id": 0, "doc_hash": "h", "value": 1, "b": 1}'), "'b'"),
        (PACKED[:40], "end-of-stream marker"),
        (PACKED[:12] + b"\0\xff\0" + PACKED[15:], "while decompressing"),
        (b"plain", "Not a gzipped file"),
    ],
)
def test_invalid_sample_file_is_refused(tmp_path, content, message):
    folder = write_record(tmp_path, RECORD, SAMPLES).parent
    (folder / "samples.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"gz does not hold readable samples") as caught:
        read_samples(folder)
    assert re.search(message, str(caught.value))
    assert str(caught.value).endswith("delete its folder to run it again, or restore the file")
