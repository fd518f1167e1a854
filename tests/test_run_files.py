"""Files of a run: whole or not at all."""

import pytest

from eval.run_files import atomic_write


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        atomic_write(tmp_path / "leaderboard.md", b"x")
    assert error.value.__notes__ == [f"while writing {tmp_path}/leaderboard.md"]
    assert list(tmp_path.iterdir()) == []
