"""Claim on task vectors moved between models, judged from hand-written records."""

from dataclasses import replace

import pytest

from eval.records import ModelRef, PoolRef
from eval.report.experiment import Experiment
from eval.report.moved import kind_of, moved_claims
from eval.report.render import to_markdown
from eval.report.report import ReportInput, report_of
from eval.report.verdicts import Verdict
from tests.report_records import Results, model

ALIGNED = {"tau": 1.0, "lam": 1.0, "alignment.refine": 2}
# 12 answers more of 24 documents: 2 of the 2 ** 12 exchanges are as extreme, p = 0.0005


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


def source(name="expert", base="other"):
    more = {} if base is None else {"base": {"name": base, "content_hash": base}}
    return ModelRef(
        name=name, location=f"zoo/{name}", revision=None, content_hash=name, more=more
    )


def pool_of(expert, pivot="base", references=("other",)):
    return PoolRef(
        pool=f"into {pivot}", pivot=model(pivot), sources=(expert,),
        references=tuple(map(model, references)),
    )  # fmt: skip


def merge(
    results, right, *, expert=None, in_frame=False, name="seme", settings=ALIGNED, **changes
):
    """A merge of an expert with so many right answers in the domains numbers and d."""
    diagnostics = {"sources": [{"identity_shortcut": in_frame}]} if name == "seme" else {}
    return results.add(
        name, right, settings=settings, merge={"diagnostics": diagnostics},
        **{"models": pool_of(expert or source()), **changes},
    )  # fmt: skip


def unmerged(results):
    """The pivot, the expert, which gained numbers over its base, and that base."""
    return [
        results.add_unmerged("base", {"numbers": 6, "d": 12}),
        results.add_unmerged("expert", {"numbers": 20, "d": 12}),
        results.add_unmerged("other", {"numbers": 4, "d": 10}),
    ]


def claim_of(results, *records):
    (claim,) = moved_claims(results.boards([*records, *unmerged(results)]))
    return claim


def test_merge_ahead_of_the_pivot_on_its_experts_domain_supports_the_claim(results):
    claim = claim_of(results, merge(results, {"numbers": 18, "d": 0}))  # 12 more, 12 fewer
    assert claim.verdict is Verdict.SUPPORTED
    assert "1 of 1 merges are significantly ahead" in claim.finding
    assert "+50.00 to +50.00 points" in claim.finding


def test_gain_on_another_domain_does_not_support_it(results):
    claim = claim_of(results, merge(results, {"numbers": 7, "d": 24}))
    assert claim.verdict is Verdict.NOT_SUPPORTED


def test_every_training_seed_must_be_ahead(results):
    seeds = [merge(results, {"numbers": n, "d": 12}, seed=i) for i, n in enumerate((18, 6))]
    claim = claim_of(results, *seeds)
    assert claim.verdict is Verdict.NOT_SUPPORTED
    assert claim.evidence.rows[-1][3:5] == ("moved", "2")
    assert claim.evidence.rows[-1][-1] == "1 of 2"


def test_merges_into_different_pivots_stand_each_below_its_own(results):
    records = [
        merge(results, {"numbers": right, "d": 12}, models=pool_of(source(), pivot, references))
        for pivot, right, references in (
            ("large", 20, ("other",)), ("pruned", 12, ("other", "own_expert")),
        )
    ]  # fmt: skip
    for name, right in (("large", 12), ("pruned", 2), ("own_expert", 18)):
        records.append(results.add_unmerged(name, {"numbers": right, "d": 12}))
    evidence = claim_of(results, *records).evidence
    assert evidence.header[1:5] == ("into", "from", "model", "merges")
    # answers of 24 on the expert's domain; the differences are to the pivot above
    assert [(*row[1:5], row[6], row[8]) for row in evidence.rows] == [
        ("large", "", "the pivot", "", "50.0", ""),
        ("large", "other", "moved", "1", "83.3", "+33.33"),
        ("pruned", "", "the pivot", "", "8.3", ""),
        ("pruned", "", "expert of the pivot: own_expert", "", "75.0", ""),
        ("pruned", "other", "moved", "1", "50.0", "+41.67"),
    ]


def test_pivots_of_one_name_are_kept_apart(results):
    records = []
    for content, right in (("a", 12), ("b", 2)):
        pivot = replace(model("pruned"), content_hash=content)
        pool = replace(pool_of(source()), pivot=pivot)
        records.append(merge(results, {"numbers": 20, "d": 12}, models=pool))
        own = PoolRef(pool="zoo", pivot=pivot, sources=(), references=())
        records.append(results.add_unmerged("pruned", {"numbers": right, "d": 12}, models=own))
    rows = claim_of(results, *records).evidence.rows
    assert [(row[3], row[8]) for row in rows] == [
        ("the pivot", ""), ("moved", "+33.33"), ("the pivot", ""), ("moved", "+75.00"),
    ]  # fmt: skip


def test_controls_are_in_the_table_and_not_in_the_verdict(results):
    shuffled = {**ALIGNED, "alignment.shuffle_task_vectors": True}
    claim = claim_of(
        results,
        merge(results, {"numbers": 18, "d": 12}),
        merge(results, {"numbers": 0, "d": 12}, settings=shuffled),
        merge(
            results, {"numbers": 3, "d": 12}, expert=source(base=None), settings={"lam": 0.25}
        ),
    )
    assert claim.verdict is Verdict.SUPPORTED
    assert "Shuffled: 0 of 1." in claim.finding
    kinds = [(row[2], row[3], row[6]) for row in claim.evidence.rows]
    assert kinds == [
        ("", "the pivot", "25.0"),
        ("other", "moved", "75.0"),
        ("other", "elements shuffled", "0.0"),
        ("other", "whole source, lam 0.25", "12.5"),
    ]


def test_activations_as_anchors_are_shown_beside_it_and_not_judged(results):
    activations = {**ALIGNED, "alignment.anchors": "activations"}
    alone = merge(results, {"numbers": 18, "d": 12})
    claim = claim_of(
        results, alone, merge(results, {"numbers": 6, "d": 12}, settings=activations)
    )
    assert claim.verdict is Verdict.SUPPORTED
    assert claim.finding.startswith("1 of 1 merges are significantly ahead")
    assert "With activations as further anchors: 0 of 1 merges" in claim.finding
    kinds = [(row[3], row[4], row[6], row[-1]) for row in claim.evidence.rows[1:]]
    assert kinds == [
        ("moved", "1", "75.0", "1 of 1"),
        ("moved, activations as anchors too", "1", "25.0", "0 of 1"),
    ]


@pytest.mark.parametrize(
    "control", [{}, {"alignment.shuffle_task_vectors": True}, {"lam": 2.0}]
)
def test_activations_do_not_change_the_correction_of_the_judged_merges(results, control):
    # 9 answers more: p = 2 / 2 ** 9 = .004, which 19 tests together would not leave below 5 %
    activations = {**ALIGNED, "alignment.anchors": "activations", **control}
    records = [
        merge(results, {"numbers": 6, "d": 12}, settings=activations, seed=i) for i in range(18)
    ]
    claim = claim_of(results, merge(results, {"numbers": 15, "d": 12}), *records)
    assert claim.verdict is Verdict.SUPPORTED


def test_source_in_the_pivots_frame_is_not_judged(results):
    records = [merge(results, {"numbers": 18, "d": 12}, in_frame=True), *unmerged(results)]
    assert moved_claims(results.boards(records)) == []


@pytest.mark.parametrize(
    ("settings", "name", "kind"),
    [
        (ALIGNED, "seme", "moved"),
        ({**ALIGNED, "lam": 2.0}, "seme", "lam 2.0"),
        ({**ALIGNED, "alignment.match_units": "never"}, "seme", "units not matched"),
        (
            {
                **ALIGNED,
                "overrides": '[{"match":"*.mlp.*","lam":0},{"match":"lm_head.*","lam":0}]',
            },
            "seme",
            "without *.mlp.*, lm_head.*",
        ),
        ({**ALIGNED, "overrides": "[not JSON"}, "seme", "moved"),
        (
            {**ALIGNED, "alignment.anchors": "activations", "lam": 2.0},
            "seme",
            "moved, activations as anchors too; lam 2.0",
        ),
        ({"lam": 1.0}, "task_arithmetic", "not aligned, task arithmetic"),
    ],
)
def test_kind_of_a_merge_is_said_in_words(results, settings, name, kind):
    record = merge(results, {"numbers": 1, "d": 1}, name=name, settings=settings)
    assert kind_of(record) == kind


def test_the_same_expert_moved_into_a_pivot_of_its_bases_frame_is_not_judged(results):
    ahead = merge(results, {"numbers": 18, "d": 0})
    near = merge(
        results, {"numbers": 6, "d": 0}, in_frame=True, settings={**ALIGNED, "tau": 0.5}
    )
    assert kind_of(near) == "in the pivot's frame"
    assert claim_of(results, ahead, near).verdict is Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("anchors", "kind"),
    [
        ("both", "whole source, lam 0.25"),
        ("activations", "whole source, lam 0.25, activations as anchors too"),
    ],
)
def test_kind_of_a_whole_source_says_its_anchors(results, anchors, kind):
    settings = {"lam": 0.25, "alignment.anchors": anchors}
    assert kind_of(merge(results, 1, expert=source(base=None), settings=settings)) == kind


@pytest.mark.parametrize("in_frame", [False, True])
def test_findings_of_others_stand_beside_the_claim_of_our_own(results, in_frame):
    merged = merge(results, {"numbers": 18, "d": 0}, in_frame=in_frame)
    boards = results.boards([merged, *unmerged(results)])
    toy = Experiment(name="toy", text="?", commands=("c",), output="o", suite=None)
    inputs = ReportInput(experiment=toy, boards=boards, publications=(), problems=())
    text = to_markdown(report_of(inputs))
    assert ("| claim of ours |" in text) is not in_frame
    assert ("authors of SeMe (arXiv 2510.24208)" in text) is not in_frame
