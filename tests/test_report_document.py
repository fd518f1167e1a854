"""A report's two forms say the same, and no text of a record breaks either."""

import pytest

from eval.report.document import (
    Commands,
    Drawing,
    Finding,
    Heading,
    Items,
    Paragraph,
    Table,
    drawing_files,
)
from eval.report.html import to_html
from eval.report.markdown import to_markdown

EVIL = "<script>a|b</script> *x* `y` [z](w)\nnext"
TABLE = Table(("run", "verdict", "n"), (("seme_a", "not supported", "1.5"),), "t", verdict=1)


def test_every_block_has_a_form_in_markdown():
    text = to_markdown([
        Heading("T", 1), Paragraph("p"), Items(("a", "b")), Commands(("make", "make test")),
        Finding("supported", "so"), Drawing("f.svg", "<svg/>", "c"), TABLE,
    ])  # fmt: skip
    assert text == (
        "# T\n\np\n\n- a\n- b\n\n```sh\nmake\nmake test\n```\n\n**supported**: so\n\n![c](f.svg)\n\n"
        "| run | verdict | n |\n| --- | --- | --- |\n| seme_a | **not supported** | 1.5 |\n"
    )


def test_a_folded_table_is_opened_by_the_reader_in_both_forms():
    folded = Table(("a",), (("1",), ("2",)), "many", folded=True)
    summary = "<details><summary>many (2 rows)</summary>"
    assert summary in to_markdown([folded])
    assert summary in to_html([Heading("T"), folded])


def test_texts_start_no_tag_and_leave_no_cell():
    cell = to_markdown([Table(("a",), ((EVIL,),))]).splitlines()[-1]
    assert cell == r"| \<script>a\|b\</script> \*x\* \`y\` \[z](w) next |"
    page = to_html([Heading(EVIL), Paragraph(EVIL), Table(("a", EVIL), (("a", EVIL),), EVIL)])
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_verdict_is_a_badge_and_numbers_stand_to_the_right():
    page = to_html([Heading("T"), TABLE, Finding("supported", "so")])
    assert '<td><span class="verdict not-supported">not supported</span></td>' in page
    assert '<td class="number">1.5</td>' in page
    assert '<span class="verdict supported">supported</span> so</p>' in page
    assert "seme_<wbr>a" in page


def test_the_page_needs_nothing_else_and_follows_the_reader_s_light():
    page = to_html([Heading("A report", 1)])
    assert "<title>A report</title>" in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_drawing_takes_the_page_s_ink_and_stands_on_white_in_its_file():
    drawing = Drawing("f.svg", '<svg fill="#1c2128"></svg>', "c")
    assert 'fill="var(--ink)"' in to_html([Heading("T"), drawing])
    assert drawing_files([Heading("T"), drawing]) == {
        "f.svg": '<svg style="background: #ffffff" fill="#1c2128"></svg>'
    }


def test_a_row_that_does_not_fit_its_header_is_ours_to_fix():
    with pytest.raises(AssertionError, match="'a', 'b'"):
        Table(("a", "b"), (("1",),))
