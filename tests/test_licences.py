"""Terms of use of a pool's models."""

import pytest

from seme.licences import check_terms, describe_terms, licence_of_card


def test_terms_are_grouped_by_licence_and_access():
    lines = describe_terms(
        [
            ("base", {"location": "org/base", "licence": "llama3.2", "gated": True}),
            ("a", {"location": "org/a", "licence": "cc-by-nc-nd-4.0"}),
            ("b", {"location": "org/b", "licence": "cc-by-nc-4.0", "gated": False}),
            ("c", {"location": "org/c"}),
        ]
    )
    assert lines[0] == (
        "licences: cc-by-nc-4.0: b; cc-by-nc-nd-4.0: a; llama3.2: base; not stated: c"
    )
    starts = [line.split(":")[0] for line in lines[1:]]
    assert starts == [
        "a (cc-by-nc-nd-4.0)", "b (cc-by-nc-4.0)", "a (cc-by-nc-nd-4.0)", "gated",
    ]  # fmt: skip
    assert "FORBIDS MERGING" in lines[1]
    assert "no commercial use" in lines[2]
    assert lines[4].startswith("gated: org/base: ")


def test_gated_adapter_is_named_by_its_own_location():
    lines = describe_terms([("a", {"path_to_adapter": "org/lora", "gated": True})])
    assert lines[0] == "licences: not stated: a"
    assert lines[1].startswith("gated: org/lora: ")


def test_nothing_stated_is_nothing_to_say():
    assert describe_terms([("a", {"location": "a"})]) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"licence": 3}, "licence must be an id such as apache-2.0, got 3"),
        ({"licence": " "}, "licence must be an id"),
        ({"gated": "yes"}, "gated must be true or false, got 'yes'"),
    ],
)
def test_malformed_terms_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        check_terms(entry)
    check_terms({"licence": "mit", "gated": True})


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\r\ntags: [a]\r\nlicense: 'mit'\r\n---\r\ntext", "mit"),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense: a b\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("---\n- 1\n---\n", None),
        ("license: mit\n", None),
        ("---\na: &a [*a]\nlicense: mit\n---\n", "mit"),
        ("---\n" + "[" * 50_000 + "\n---\n", None),
        ("---\n" + "x" * 200_000 + "\nlicense: mit\n---\n", None),
        ("", None),
    ],
)
def test_licence_is_read_from_a_card(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card, newline="")
    assert licence_of_card(tmp_path) == licence


def test_merge_keys_of_a_card_do_not_multiply(tmp_path):
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 40):
        lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}")
    text = "\n".join(["---", *lines, "license: mit", "---", ""])
    (tmp_path / "README.md").write_text(text)
    assert licence_of_card(tmp_path) == "mit"  # 9**39 entries otherwise


def test_card_that_is_no_file_of_the_folder_states_nothing(tmp_path):
    assert licence_of_card(tmp_path) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "model/README.md").symlink_to(tmp_path / "README.md")
    assert licence_of_card(tmp_path / "model") is None
