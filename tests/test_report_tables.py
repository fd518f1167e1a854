"""Tables of models, suites, environment and deviations from hand-written records."""

from eval.report.tables import deviations, environment_table, models_table, seeds, suites
from tests.report_records import MACHINE, Results


def test_models_and_suites_have_content_hashes(tmp_path):
    results = Results(tmp_path)
    boards = results.boards([results.add("ties", 6)])
    assert models_table(boards).rows == (
        ("zoo", "pivot", "base", "zoo/base", "", "base"),
        ("zoo", "source", "expert", "zoo/expert", "", "expert"),
    )
    assert suites(boards) == [
        "Suite toy_test, split test, fingerprint test: d_task (d, n = 24)."
    ]


def test_differing_environment_facts_are_counted(tmp_path):
    results = Results(tmp_path)
    other = {**MACHINE, "git": {"revision": "abc"}, "cores": 4}
    records = [results.add("ties", 6), results.add("dare", 6, provenance=other, seed=1)]
    facts = dict(environment_table(records).rows)
    assert facts["cpu"] == "a"
    assert facts["cores"] == "2 (1 runs); 4 (1 runs)"
    assert facts["git.revision"] == "abc"
    assert seeds(records) == "0, 1"


def test_deviations_are_of_the_methods_that_ran():
    assert {row[0] for row in deviations(["SCE"]).rows} == {"all", "SeMe, SCE", "SCE"}
    assert deviations([]).header == ("method", "paper", "here")
