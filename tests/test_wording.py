"""Errors in words: kinds, notes, paths, length."""

import pytest

from eval.wording import describe_error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("tau must be"), "tau must be"),
        (KeyError("a"), "KeyError: 'a'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_unexpected_errors_have_their_type(error, text):
    assert describe_error(error) == text


def test_error_paths_are_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = ValueError(f"{tmp_path}/models/a does not fit /elsewhere/b")
    error.add_note(f"while reading {tmp_path}/models/a")
    assert describe_error(error) == "models/a does not fit /elsewhere/b\nwhile reading models/a"


def test_errors_are_text_without_the_home_folder_and_not_endless(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert describe_error(ValueError(f"{tmp_path}/m holds \udcff")) == "~/m holds \\udcff"
    assert len(describe_error(ValueError("x" * 10**6))) < 5000
