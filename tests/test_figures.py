"""Figures of a board: content, labels, reproducible bytes."""

import itertools
import math
import random
import re
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from eval.leaderboard.drawing import INK, draw, printable, series_styles, short_labels, spread
from eval.leaderboard.figures import (
    pareto_front,
    plots_of,
    score_against_cost,
    share_kept,
    task_heat_map,
    time_and_memory,
)
from tests.made_up_runs import bare_boards, make_record, model_ref, stage_cost


def record(name, *scores, seconds=0.25, **changes):
    settings = changes.get("settings", {})
    defaults = {
        "fingerprint": f"{name}{settings}{changes.get('seed')}", "evaluation_cost": None,
        "domains": {"code": "code", "spanish": "spanish"},
        "merge_cost": stage_cost(seconds, 50),
    }  # fmt: skip
    values = dict(zip(("code", "spanish"), scores, strict=False))
    return make_record(name, values, **defaults | changes)


BASE = record("base", 0.2, 0.4, kind="reference", merge_cost=None)
TIES = [record("ties", 0.5, x, settings={"density": x, "lam": 1.0}) for x in (0.1, 0.2)]
SEME = record("seme", 0.6, 0.5, settings={"tau": 0.1})
FAILED = record("dare", settings={"density": 0.1}, status="failed", error="NaN")


def board(*records):
    (the_board,) = bare_boards(records)
    return the_board


def texts(plot):
    root = ElementTree.fromstring(plot.svg)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_many_methods_are_named_beside_the_axes_by_the_rank_of_their_best_setting():
    runs = [record(f"m{i:02}", 0.3 + i / 100, 0.5, seconds=0.1 + i) for i in range(13)]
    worse = record("m12", 0.1, 0.1, settings={"lam": 2.0})
    named = [
        text for text in texts(score_against_cost(board(BASE, *runs, worse))) if "m" in text
    ]
    names = [text for text in named if re.fullmatch(r"\d+ m\d\d", text)]
    assert names == [f"{rank} m{13 - rank:02}" for rank in range(1, 14)]


def test_up_to_a_dozen_methods_are_named_in_a_legend():
    runs = [record(f"m{i:02}", 0.3 + i / 100, 0.5) for i in range(12)]
    written = texts(score_against_cost(board(BASE, *runs)))
    assert {f"m{i:02}" for i in range(12)} <= set(written)


def test_pareto_front_excludes_dominated_points():
    # cost, score: b is dearer and worse than a, d is dearer than c for the same score
    a, b, c, d = (1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (4.0, 0.7)
    assert pareto_front([d, c, b, a]) == [3, 1]


def test_pareto_front_includes_all_equal_points():
    assert pareto_front([(1.0, 0.5), (1.0, 0.5), (1.0, 0.4)]) == [0, 1]


def test_pareto_front_equals_brute_force():
    rng = random.Random(0)
    for _ in range(200):
        points = [(rng.randrange(5), rng.randrange(5)) for _ in range(rng.randrange(8))]
        beaten = {
            i
            for (i, p), q in itertools.product(enumerate(points), points)
            if q != p and q[0] <= p[0] and q[1] >= p[1]
        }
        assert sorted(pareto_front(points)) == [
            i for i in range(len(points)) if i not in beaten
        ]


def test_board_has_only_figures_it_has_data_for():
    def names(*records):
        return [plot.name for plot in plots_of(board(*records))]

    whole = ["score-against-cost", "task-heat-map", "share-kept", "time-and-memory"]
    assert names(BASE, SEME) == whole
    assert names(record("average", 0.5, 0.5)) == [whole[0], whole[1], whole[3]]
    assert names(record("average", suite=None, domains={})) == ["time-and-memory"]
    assert names(record("ties", 0.1, 0.1, merge_cost=None)) == ["task-heat-map"]
    assert names(FAILED) == []


def test_figures_do_not_depend_on_record_order_or_rcparams():
    before = plots_of(board(BASE, *TIES, SEME))
    with mpl.rc_context({"font.size": 30, "xtick.labelsize": 30, "savefig.facecolor": "red"}):
        assert plots_of(board(SEME, *reversed(TIES), BASE)) == before


def test_figures_have_no_date_or_generator():
    svg = score_against_cost(board(SEME)).svg
    assert svg.startswith("<svg")
    assert not re.search("date|Matplotlib|<metadata|<image", svg)


def test_svg_ids_differ_between_boards():
    def ids(drawn_board):
        return {i for p in plots_of(drawn_board) for i in re.findall(r' id="([^"]+)"', p.svg)}

    other = replace(SEME.models, pool="alps")
    first, second = ids(board(SEME)), ids(board(replace(SEME, models=other)))
    assert first
    assert not first & second


def test_cost_plot_labels_ranks_and_unmerged_models():
    labels = texts(score_against_cost(board(BASE, *TIES, SEME)))
    assert {"1", "2", "3", "base", "seme", "ties", "merge, seconds"} <= set(labels)


def test_cost_plot_has_lines_for_the_pivot_and_the_best_model():
    models = [
        record(n, s, s, kind="reference", models=replace(BASE.models, pivot=model_ref(n)))
        for n, s in (("good", 0.3), ("best", 0.9))
    ]
    merge = replace(SEME.models, sources=(model_ref("good"), model_ref("best")))
    labels = texts(score_against_cost(board(BASE, *models, replace(SEME, models=merge))))
    assert [name for name in labels if name in ("base", "good", "best")] == ["base", "best"]


def test_heat_map_is_relative_to_the_pivot():
    plot = task_heat_map(board(BASE, SEME, FAILED))
    # rows base (20, 40) and seme (60, 50)
    assert [t for t in texts(plot) if "." in t] == ["1. seme", "20.0", "40.0", "60.0", "50.0"]
    assert "Blue is above base (the pivot)" in plot.caption
    darkest_blue = mpl.colors.to_hex(mpl.colormaps["RdBu"](1.0))
    assert plot.svg.count(f"fill: {darkest_blue}") == 1  # + 40 points, beyond the scale


def test_heat_map_without_pivot_is_relative_to_the_mean():
    plot = task_heat_map(board(record("a", 0.3, 0.5), record("b", 0.5, 0.5)))
    assert "Blue is above the mean of the rows" in plot.caption


def test_density_plot_joins_runs_that_differ_only_in_density_and_seed():
    seeds = [replace(TIES[0], seed=1, fingerprint="x")]
    other = record("ties", 0.4, 0.4, settings={"density": 0.1, "lam": 0.5})
    labels = texts(share_kept(board(*TIES, *seeds, other, SEME, record("average", 0.1, 0.1))))
    assert [t for t in labels if t[:4] in ("seme", "ties")] == [
        "seme",
        "ties lam=0.5",
        "ties lam=1",
    ]


def test_density_plot_averages_seeds():
    # means 0.2 and 0.6 at one share, 0.4 at the other: the line through 0.4 is level
    runs = [
        record("dare", v, v, settings={"density": x}, seed=i)
        for i, (x, v) in enumerate([(0.1, 0.2), (0.1, 0.6), (0.2, 0.4)])
    ]
    svg = share_kept(board(*runs)).svg
    (line,) = re.findall(r'd="([^"]*)"[^>]*stroke: #0072b2; stroke-width: 1.2', svg)
    heights = re.findall(r"[ML] \S+ (\S+)", line)
    assert len(heights) == 2
    assert heights[0] == heights[1]


def test_bars_have_seconds_and_mib_of_finished_merges():
    slow = record("ties", 0.5, 0.4, merge_cost=stage_cost(12.25, 7))
    labels = texts(time_and_memory(board(BASE, slow, FAILED)))
    assert {"12.25", "7", "1. ties"} <= set(labels)
    assert not {"base", "dare"} & set(labels)


def test_short_labels_have_only_differing_settings():
    rows = board(*TIES, SEME).merges
    assert short_labels(rows) == ["1. seme", "2. ties density=0.2 †", "3. ties density=0.1 †"]


def test_printable_truncates_and_replaces_invalid_xml():
    assert (
        printable("abc\0d\ud800", 10)
        == "abc\N{REPLACEMENT CHARACTER}d\N{REPLACEMENT CHARACTER}"
    )
    assert printable("abcdef", 4) == "abc…"


@pytest.mark.parametrize("text", ["<b>&\"'</b>", "$\\frac{1}$", "\0]]>", "学", "-->", "_a"])
def test_record_text_is_drawn_literally(text):
    settings = [{"tau": x, "scope": f"{text}{x}"} for x in (0.1, 0.2)]
    models = replace(SEME.models, pivot=replace(model_ref("base"), name=text))
    runs = [record("seme", 0.5, 0.5, settings=s, models=models) for s in settings]
    labels = texts(share_kept(board(BASE, *runs)))
    assert printable(text, 16) in labels  # the pivot's line
    assert any(f"scope={printable(text, 16)}" in label for label in labels)


@pytest.mark.parametrize(("values", "scale"), [((0.1, 0.7), "linear"), ((0.1, 0.8), "log")])
def test_wide_ranges_use_a_log_axis(values, scale):
    axes = Figure().add_subplot()
    spread(axes, values)
    assert axes.get_xscale() == scale


def test_axis_including_zero_is_linear():
    axes = Figure().add_subplot()
    spread(axes, [0.0, 100.0])
    assert axes.get_xscale() == "linear"


def test_styles_are_distinct_for_49_names_in_any_order():
    names = [f"method{i}" for i in range(49)]
    styles = series_styles(reversed(names))
    assert len(set(styles.values())) == 49
    assert styles == series_styles(names)


def test_figures_use_one_replaceable_ink_colour():
    svg = draw("x", (2.0, 2.0), lambda figure: figure.add_subplot(xlabel="word"))
    assert f"fill: {INK}" in svg
    assert "#000000" not in svg
    assert math.isclose(float(re.search(r'width="([\d.]+)pt"', svg)[1]), 144)
