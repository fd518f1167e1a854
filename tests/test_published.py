"""Published numbers: committed files, errors of malformed ones, comparison with records."""

import re

import pytest
import yaml

from eval.records import PoolRef
from eval.report.published import read_publication, read_publications, verdict_on
from tests.report_records import Results, model, score

ENTRY = {
    "method": "ties", "pivot": "zoo/base", "sources": ["zoo/b", "zoo/a"],
    "settings": {"density": 0.2}, "task": "d_task", "value": 60.0, "tolerance": 2.0,
    "read_in": "page", "tuned_on_test": False, "unreproduced": None,
}  # fmt: skip


def write(folder, entry=ENTRY, **changes):
    content = {"source": "S", "url": "U", "note": "N", "numbers": [entry | changes]}
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    return folder / "s.yaml"


@pytest.fixture
def number(tmp_path):
    return read_publication(write(tmp_path)).numbers[0]


def run(tmp_path, *, value=0.5, sources=("a", "b"), density=0.2, method="ties", task="d_task"):
    models = PoolRef(
        pool="p", pivot=model("base"), sources=tuple(map(model, sources)), references=()
    )
    values = [1.0] * round(20 * value) + [0.0] * (20 - round(20 * value))
    return Results(tmp_path / "runs_of").add(
        method, 6, settings={"density": density, "lam": 1.0}, scores={task: score(values)},
        models=models, domains={task: "d"},
    )  # fmt: skip


def test_committed_reference_files_have_the_published_numbers(repository):
    references = read_publications(repository / "results" / "reference")
    numbers = {(n.method, n.task): n for r in references for n in r.numbers}
    assert {key: n.value for key, n in numbers.items()} == {
        ("average", "alpaca_eval"): 67.04, ("average", "gsm8k"): 66.34,
        ("average", "minerva_math"): 13.40, ("dare", "gsm8k"): 56.48, ("sce", "aime24"): 74.0,
    }  # fmt: skip
    dare = numbers["dare", "gsm8k"]
    assert dare.tuned_on_test
    assert dare.unreproduced == "users who repeated it got 33 to 34"
    assert dare.settings == {"density": 0.9, "lam": 1.0}


def test_seme_reference_has_no_numbers(repository):
    reference = read_publication(repository / "results" / "reference" / "seme.yaml")
    assert reference.numbers == ()
    assert reference.note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": "60"}, r"numbers\.0\.value: .* got '60'"),
        ({"value": 101}, r"numbers\.0\.value: .* 100, got 101"),
        ({"value": float("nan")}, r"numbers\.0\.value: .*, got nan"),
        ({"read_in": "memory"}, r"numbers\.0\.read_in: .* 'code' or 'page', got 'memory'"),
        ({"sources": "zoo/a"}, r"numbers\.0\.sources: .* got 'zoo/a'"),
        ({"settings": []}, r"numbers\.0\.settings: .* got \[\]"),
        ({"task": " "}, r"numbers\.0\.task: .* got ' '"),
        ({"extra": 1}, r"numbers\.0\.extra: .* got 1"),
    ],
)
def test_malformed_entry_is_named_with_its_value(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"s.yaml is not a readable reference: {message}"):
        read_publication(write(tmp_path, **changes))


def test_a_missing_entry_is_named(tmp_path):
    entry = {key: value for key, value in ENTRY.items() if key != "tolerance"}
    with pytest.raises(ValueError, match=r"s.yaml .*: numbers\.0\.tolerance: [^;]*$"):
        read_publication(write(tmp_path, entry=entry))


@pytest.mark.parametrize("text", ["[]", "source: S", "a: b: c", "numbers: 3\nsource: S"])
def test_a_malformed_file_is_named(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"s.yaml is not a readable reference"):
        read_publications(tmp_path)


# published 60, tolerance 2, standard error 10 points: 58 - 20 to 62 + 20 is within
@pytest.mark.parametrize(
    ("value", "outcome"),
    [(0.6, "within tolerance"), (0.4, "within tolerance"), (0.35, "outside tolerance"),
     (0.8, "within tolerance"), (0.85, "outside tolerance")],
)  # fmt: skip
def test_number_is_compared_if_the_setting_matches(tmp_path, number, value, outcome):
    verdict, numbers = verdict_on(number, [run(tmp_path, value=value)])
    assert verdict == outcome
    assert f"{100 * value:.2f} ± 10.00 (ties0)" in numbers


@pytest.mark.parametrize(
    ("changes", "fact", "published", "present"),
    [
        ({"sources": ("a",)}, "models", "zoo/b + zoo/a into zoo/base", "p"),
        ({"method": "dare"}, "method", "ties", "dare"),
        ({"density": 0.1}, "settings", "density=0.2", "density=0.1 lam=1.0"),
        ({"task": "other"}, "task", "d_task", "other"),
    ],
)
def test_first_differing_fact_is_named(tmp_path, number, changes, fact, published, present):
    outcome, explanation = verdict_on(number, [run(tmp_path, **changes)])
    assert outcome == "not compared"
    assert re.match(f"{fact} differs?: published {re.escape(published)}, ", explanation)
    assert explanation.endswith(f" {present}")


def test_number_without_a_finished_merge_is_not_compared(tmp_path, number):
    refused = Results(tmp_path).add_refused("ties")
    assert verdict_on(number, [refused])[0] == "not compared"
