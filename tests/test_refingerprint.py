"""Renewed fingerprints: records keep their scores, and a new run skips them as done."""

from dataclasses import replace

import pytest

from eval.records import fingerprint_of, read_record, write_record
from scripts import refingerprint as script
from seme.provenance import NUMBERS_VERSION
from tests.made_up_runs import made_up_run


@pytest.fixture
def stale(tmp_path):
    """Write a run of TIES made by other code; return its record."""
    identity = {"method": "ties", "code": "0" * 16, "numbers": 0, "suite": "s"}
    run = made_up_run("ties", {"density": 0.2}, 0.4)
    record = replace(
        run, fingerprint=fingerprint_of(identity), provenance={"identity": identity}
    )
    write_record(tmp_path, record, None)
    return record


def test_renewed_run_has_the_current_code_and_equal_scores(stale, tmp_path):
    changed = script.refingerprint(tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    record = read_record(folder / "record.json")
    assert changed == {stale.fingerprint: record.fingerprint}
    assert folder.name == f"ties-{record.fingerprint[:12]}"
    assert record.provenance["identity"]["numbers"] == NUMBERS_VERSION
    assert record.scores == stale.scores
    assert script.refingerprint(tmp_path) == {}


@pytest.mark.parametrize("provenance", [{}, {"identity": {"method": "ties"}}])
def test_run_with_an_inconsistent_fingerprint_is_reported(stale, tmp_path, provenance, capsys):
    write_record(tmp_path, replace(stale, provenance=provenance), None)
    assert script.main([f"output={tmp_path}"]) == 1
    assert stale.fingerprint[:12] in capsys.readouterr().err


def test_run_of_a_deleted_method_is_reported(stale, tmp_path, capsys):
    write_record(tmp_path, replace(stale, name="gone"), None)
    assert script.main([f"output={tmp_path}"]) == 1
    assert "conf/method/gone.yaml" in capsys.readouterr().err
