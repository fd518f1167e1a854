"""Report blocks rendered to Markdown and HTML, with record texts escaped."""

from html.parser import HTMLParser

import pytest

from eval.report.render import (
    Drawing,
    Table,
    commands,
    drawing_files,
    finding,
    heading,
    items,
    plain,
    to_html,
    to_markdown,
)

INJECTION = "<script>a|b</script> *x* `y` [z](w) ![i](http://h/i) <img src=x> &lt;\nnext"
TABLE = Table(("run", "verdict", "n"), (("seme_a", "not supported", "1.5"),), verdict=1)


class Outline(HTMLParser):
    """Tags with their attributes and the visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page.split("</style>", 1)[1])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def outline(*blocks):
    return Outline(to_html([heading("T", 1), *blocks]))


def test_every_block_renders_to_markdown():
    text = to_markdown([
        heading("T", 1), plain("p"), items(("a", "b")), commands(("make", "make test")),
        finding("supported", "so"), Drawing("f.svg", "<svg/>", "c"), TABLE,
    ])  # fmt: skip
    assert text == (
        "# T\n\np\n\n- a\n- b\n\n```sh\nmake\nmake test\n```\n\n"
        "**supported**: so\n\n![c](f.svg)\n\n"
        "| run | verdict | n |\n| --- | --- | --- |\n| seme_a | **not supported** | 1.5 |\n"
    )


def test_every_block_renders_to_html():
    page = outline(
        heading("H"), plain("p"), items(("a", "b")), commands(("make",)),
        finding("supported", "so"), Drawing("f.svg", "<svg></svg>", "c"),
    )  # fmt: skip
    assert [tag for tag, _ in page.tags] == [
        "body", "main", "h1", "h2", "p", "ul", "li", "li", "pre", "code", "p", "strong",
        "figure", "div", "svg", "figcaption",
    ]  # fmt: skip
    assert page.text.split() == ["T", "H", "p", "a", "b", "make", "supported:", "so", "c"]


def test_folded_table_is_a_details_element():
    folded = Table(("a",), (("1",), ("2",)), folded="many & <b>")
    summary = "<details><summary>many &amp; &lt;b&gt; (2 rows)</summary>"
    assert summary in to_markdown([folded])
    assert summary in to_html([heading("T"), folded])
    assert [tag for tag, _ in outline(folded).tags].count("table") == 1


def test_markdown_cells_are_escaped():
    cell = to_markdown([Table(("a",), (("<b> a|b *x* `y` [z](w)\nnext",),))]).splitlines()[-1]
    assert cell == r"| \<b> a\|b \*x\* \`y\` \[z](w) next |"


@pytest.mark.parametrize("text", [INJECTION, INJECTION.replace("<", "\\<").replace("[", "\\[")])
def test_record_text_makes_no_tag_link_or_image(text):
    page = outline(
        heading(text), plain(text), items((text,)), finding("supported", text),
        Table(("a", text), (("a", text), (text, "b")), folded=text),
        Drawing("f.svg", "<svg></svg>", text), "<details><summary><img></summary>",
    )  # fmt: skip
    known = {"body", "main", "h1", "h2", "p", "ul", "li", "strong", "details", "summary", "div",
             "table", "thead", "tbody", "tr", "th", "td", "figure", "svg",
             "figcaption"}  # fmt: skip
    assert {tag for tag, _ in page.tags} == known
    words = " ".join(text.split())
    assert " ".join(page.text.split()).count(words) == 9  # three in the table, one above it


def test_verdicts_and_columns_have_css_classes():
    text = "a long text of several words that may wrap"
    table = Table(
        ("run", "verdict", "n", "why"),
        (("a", "not supported", "1.50 ± 0.10", text), ("b", "supported", "", "")), verdict=1,
    )  # fmt: skip
    page = outline(heading("Results"), table)
    classes = [a["class"] for a in page.attributes("td")]
    assert classes == ["", "number", "text", "", "number", "text"]
    assert [a.get("scope") for a in page.attributes("th")] == ["col"] * 4 + ["row"] * 2
    assert [a["class"] for a in page.attributes("strong")] == [
        "verdict not-supported",
        "verdict supported",
    ]
    assert page.attributes("div")[0]["aria-label"] == "Results"
    assert "seme_<wbr>a" in to_html([heading("T"), TABLE])


def test_html_is_self_contained_with_a_dark_scheme():
    page = to_html([heading("A <report>", 1)])
    assert "<title>A &lt;report&gt;</title>" in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "http" not in page.replace("http-equiv", "")


def test_drawing_uses_page_ink_and_a_white_background_in_its_file():
    drawing = Drawing("f.svg", '<svg fill="#1c2128"></svg>', "c")
    assert 'fill="var(--ink)"' in to_html([heading("T"), drawing])
    assert drawing_files([heading("T"), drawing]) == {
        "f.svg": '<svg style="background: #ffffff" fill="#1c2128"></svg>'
    }


def test_row_must_fit_the_header():
    with pytest.raises(AssertionError, match="'a', 'b'"):
        Table(("a", "b"), (("1",),))
