"""The leaderboard page in a real browser: it loads, sorts, filters, expands, and fits."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from eval.leaderboard.page import write_page
from tests.made_up_runs import bare_boards, make_record, pool_ref, stage_cost, suite_ref

pytestmark = pytest.mark.browser


def record(name, value, seconds=1.0, pool="zoo", suite="test", **changes):
    defaults = {
        "fingerprint": f"{name}{pool}{suite}", "settings": {"tau": 0.1},
        "models": pool_ref(pool, pivot=pool), "domains": dict.fromkeys(TASKS, "d"),
        "suite": suite_ref(None, name=suite, fingerprint=suite),
        "merge_cost": stage_cost(seconds, 50),
        "merge": {"diagnostics": {"condition": 31.5, INJECTION: INJECTION}},
        "provenance": {"git": {"revision": "0" * 200}},
    }  # fmt: skip
    return make_record(name, dict.fromkeys(TASKS, value), **defaults | changes)


INJECTION = "<img src=x onerror='document.title=1'><script>document.title=2</script>"
TASKS = [f"a_rather_long_task_name_{i}" for i in range(12)]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


RECORDS = [
    record("ties", 0.5, seconds=9.0),
    record("seme", 0.7, seconds=10.0),
    record("sce", 0.6, seconds=2.0),
    record("dare", 0.1, status="failed", error=INJECTION, scores={}, merge_cost=None),
    record("base", 0.4, kind="reference", settings={}, merge_cost=None),
    record("ties", 0.3, pool="alps"),
    record("ties", 0.3, suite="validation"),
]


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    assert path, "these tests need Chromium on the path: install it, or leave out -m browser"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    write_page(root, bare_boards(RECORDS))
    return (root / "leaderboard.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The page on a desktop's screen; fails for anything it says or asks for."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    tab, messages = context.new_page(), []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: messages.append(request.url))
    tab.goto(address)
    yield tab
    context.close()
    assert set(messages) == {address}


def methods(page, pool="zoo"):
    rows = page.locator(f'section[data-pool="={pool}"][data-suite="=test"] .expand:visible')
    return rows.all_inner_texts()


def sort_by(page, label):
    page.locator('section[data-pool="=zoo"][data-suite="=test"] thead').get_by_text(
        label, exact=True
    ).click()


def background_colour(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def figure_text_colour(page):
    return page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")


def test_page_loads_every_board_and_figure(page):
    assert page.title() == "Leaderboard"
    assert methods(page) == ["zoo", "seme", "sce", "ties", "dare"]
    assert page.locator("section:visible").count() == 3
    assert page.locator("figure svg:visible").count() == 12
    assert page.locator("#count").inner_text() == "6 of 6 merges"


def test_columns_sort_numerically_with_missing_values_last(page):
    sort_by(page, "merge s")  # 10 is after 9; the first click on a cost is rising
    assert methods(page) == ["sce", "ties", "seme", "zoo", "dare"]
    sort_by(page, "merge s")
    assert methods(page) == ["seme", "ties", "sce", "zoo", "dare"]


def test_first_click_on_a_score_sorts_descending_with_aria_sort(page):
    sort_by(page, "mean %")
    assert methods(page) == ["seme", "sce", "ties", "zoo", "dare"]
    head = page.locator(
        'section[data-suite="=test"][data-pool="=zoo"] th[aria-sort="descending"]'
    )
    assert head.all_inner_texts() == ["mean %"]


def test_text_sorts_alphabetically_by_keyboard(page):
    page.locator('section[data-pool="=zoo"][data-suite="=test"] thead button').first.focus()
    page.keyboard.press("Enter")
    assert methods(page) == ["dare", "sce", "seme", "ties", "zoo"]


@pytest.mark.parametrize(
    ("filters", "boards", "count"),
    [
        ({"pool": "alps"}, 1, 1),
        ({"suite": "validation"}, 1, 1),
        ({"method": "ties"}, 3, 3),
        ({"method": "seme"}, 1, 1),
        ({"pool": "alps", "suite": "validation"}, 0, 0),
    ],
)
def test_filters_select_pool_suite_and_method(page, filters, boards, count):
    for name, value in filters.items():
        page.locator(f"#filter-{name}").select_option(value)
    assert page.locator("section:visible").count() == boards
    assert page.locator("#count").inner_text() == f"{count} of 6 merges"


def test_method_filter_keeps_unmerged_models_unless_unchecked(page):
    page.locator("#filter-method").select_option("seme")
    assert methods(page) == ["zoo", "seme"]
    page.locator("#filter-unmerged").uncheck()
    assert methods(page) == ["seme"]


def test_details_expand_collapse_and_move_with_their_row(page):
    row = page.locator("tbody", has=page.get_by_role("button", name="seme"))
    assert not row.get_by_text("condition").is_visible()
    row.get_by_role("button").click()
    assert row.get_by_text("condition").is_visible()
    sort_by(page, "mean %")
    assert row.get_by_text("31.5").is_visible()
    row.get_by_role("button").click()
    assert not row.get_by_text("condition").is_visible()


def test_record_texts_are_not_executed(page):
    page.get_by_role("button", name="dare").click()
    assert page.locator("pre").inner_text() == INJECTION
    assert page.title() == "Leaderboard"


def test_theme_follows_the_system_until_toggled(page):
    light = background_colour(page), figure_text_colour(page)
    page.emulate_media(color_scheme="dark")
    dark = background_colour(page), figure_text_colour(page)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    page.locator("#theme").click()
    assert (background_colour(page), figure_text_colour(page)) == light
    page.reload()
    assert background_colour(page) == light[0]


@pytest.mark.parametrize("width", [360, 390, 768, 1300])
def test_only_the_table_scrolls_horizontally_with_a_sticky_method_column(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_role("button", name="seme").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    table = page.locator('section[data-pool="=zoo"][data-suite="=test"] .scroll')
    table.evaluate("box => box.scrollLeft = 1e6")
    assert table.evaluate("box => box.scrollLeft") > 0
    left = table.bounding_box()["x"]
    for sticky in (".expand", "thead th", ".sections:visible"):
        assert table.locator(sticky).first.bounding_box()["x"] - left < 10
    assert table.locator(".sections:visible").bounding_box()["width"] <= width


def test_figure_labels_do_not_overlap(page):
    for figure in page.locator("figure svg").all():
        boxes = [text.bounding_box() for text in figure.locator("text").all()]
        level = [b for b in boxes if b["height"] < 16]  # the turned ones aside
        for i, a in enumerate(level):
            for b in level[:i]:
                across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
                down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
                assert min(across, down) <= 4
