"""YAML files that Hydra reads: aliases and depth, folders of the command line."""

from pathlib import Path

import pytest

from seme_bench.configuration_files import check_aliases, config_folders


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(9), "a: &a [*a]", bomb(30)])
def test_files_that_grow_without_bound_are_refused(tmp_path, text):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"models/mine\.yaml: more than 100000 nodes"):
        check_aliases([tmp_path])


@pytest.mark.parametrize(
    "text", [bomb(3), "a: &a 1\nb: *a", "include: ['*']\nx: a & b *", "a: ["]
)
def test_other_files_pass(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    check_aliases([tmp_path])


def test_folders_of_the_command_line_are_checked_too():
    arguments = ["-m", "--config-dir=a", "-cd", "b", "tau=1"]
    assert config_folders(arguments, Path("/r/conf")) == [Path("/r/conf"), Path("a"), Path("b")]


def test_depth_is_bounded_in_files_with_an_alias_alone(tmp_path):
    path, deep = tmp_path / "mine.yaml", "[" * 101 + "]" * 101
    path.write_text(f"a: &a 1\nb: {deep}")
    check_aliases([tmp_path])
    path.write_text(f"a: &a 1\nb: {deep}\nc: *a")
    with pytest.raises(
        ValueError, match=r"^[^ ]*mine\.yaml: values are nested in more than 100"
    ):
        check_aliases([tmp_path])
