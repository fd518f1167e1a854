import re

import pytest

from scripts.diagnose import main


def test_a_pool_is_diagnosed_without_being_merged(tmp_path, capsys):
    assert main(["models=small_into_base", f"output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "small: layer by layer",
        "0.33 x 0 + 0.67 x 1",  # three layers onto four
        "Seconds per stage",
        "base: cosine of recomposed directions",
        "random vectors",
    ):
        assert text in printed
    assert [path.name for path in tmp_path.rglob("*.*")] == ["small_into_base.svg"]
    assert "semantic bases" in (tmp_path / "diagnostics/small_into_base.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models=nowhere"], "models must be one of .*'zoo'.*, got 'nowhere'"),
        (["method.refine=-1"], "refine must be a whole number from 0 on, got -1"),
        (["method.refined=1"], "refined"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_error(arguments, message, capsys):
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err)
