"""Errors of a task's own functions: kept until everything is scored, then raised or made up for."""

from types import SimpleNamespace

import pytest

from eval.postponed import completed, postponed_errors
from eval.scored import read_scored, scored_from, write_scored


class Filters:
    """As lm-eval's filters of one name: the first answer to each request."""

    name = "none"

    def apply(self, instances):
        for instance in instances:
            instance.filtered_resps[self.name] = self.first(instance.resps)

    first = staticmethod(lambda answers: answers[0])


class Task:
    """As lm-eval's, of three documents and one answer to each; the score is the sum of both."""

    config = SimpleNamespace(task="t")
    eval_docs = (10.0, 20.0, 30.0)

    def __init__(self):
        self._filters = [Filters()]
        self.instances = [SimpleNamespace(resps=[i + 1.0], filtered_resps={}) for i in range(3)]
        self.function = sum

    def apply_filters(self):
        self._filters[0].apply(self.instances)

    def process_results(self, doc, results):
        return {"acc": doc + results[0], "one": 1.0}

    def aggregation(self):
        return {"acc": self.function}


def score(task, tmp_path):
    """What lm-eval does with a task after the model answered, kept in a file and read again."""
    with postponed_errors([task]):
        task.apply_filters()
        samples = []
        for i, doc in enumerate(task.eval_docs):
            metrics = task.process_results(doc, [task.instances[i].filtered_resps["none"]])
            about = {
                "doc_id": i,
                "doc_hash": str(i),
                "filter": "none",
                "metrics": list(metrics),
            }
            samples.append(about | metrics)
        names = dict.fromkeys(name for sample in samples for name in sample["metrics"])
        mean = {"one": lambda values: sum(values) / len(values)}
        results = {
            f"{name},none": {**mean, **task.aggregation()}[name](
                [s[name] for s in samples if name in s]
            )
            for name in names
        }
    given = {"results": {"t": {"alias": "t", **results}}, "samples": {"t": samples}}
    write_scored(
        tmp_path / "kept", scored_from(given | {"versions": {}}, caps={}, max_length=1)
    )
    return read_scored(tmp_path / "kept")


EXPECTED = {"alias": "t", "acc,none": 66.0, "one,none": 1.0}  # 11 + 22 + 33


def failing(when, real):
    def function(*arguments):
        if when(*arguments):
            raise LookupError("no such word")
        return real(*arguments)

    return function


def test_functions_that_do_not_fail_are_not_run_again(tmp_path):
    task = Task()
    scored = score(task, tmp_path)
    assert scored.results["t"] == EXPECTED
    assert completed(scored, {"t": None}) == scored


@pytest.mark.parametrize("documents", [{10.0}, {20.0, 30.0}, {10.0, 20.0, 30.0}])
def test_documents_whose_process_results_failed_are_processed_again(documents, tmp_path):
    task, whole = Task(), score(Task(), tmp_path)
    task.process_results = failing(lambda doc, _: doc in documents, task.process_results)
    scored = score(task, tmp_path)
    with pytest.raises(LookupError, match="no such word") as error:
        completed(scored, {"t": task})
    first, rest = Task.eval_docs.index(min(documents)), len(documents) - 1
    more = f" (it failed on {rest} more)" if rest else ""
    assert error.value.__notes__ == [
        f"while process_results computed the metrics of document {first} of t{more}"
    ]
    assert completed(scored, {"t": Task()}) == whole


def test_answers_that_a_filter_failed_on_are_filtered_again(tmp_path):
    task, whole = Task(), score(Task(), tmp_path)
    task._filters[0].first = failing(lambda answers: answers == [2.0], Filters.first)
    scored = score(task, tmp_path)
    with pytest.raises(LookupError) as error:
        completed(scored, {"t": task})
    assert error.value.__notes__ == ["while the filter none of t ran"]
    assert completed(scored, {"t": Task()}) == whole


def test_a_failed_aggregation_is_made_up_for_later(tmp_path):
    task = Task()
    task.function = failing(lambda _: True, sum)
    scored = score(task, tmp_path)
    assert scored.results["t"]["acc,none"] == "failed: LookupError"
    with pytest.raises(LookupError) as error:
        completed(scored, {"t": task})
    assert error.value.__notes__ == ["while aggregating acc of t over its documents"]
    assert completed(scored, {"t": Task()}).results["t"] == EXPECTED


def test_functions_are_the_tasks_own_again():
    task = Task()
    task.aggregation = lambda: {"acc": max}
    before = dict(vars(task))
    with postponed_errors([task]):
        assert {"apply_filters", "process_results", "aggregation"} <= vars(task).keys()
    assert vars(task) == before


def test_ctrl_c_in_a_function_is_not_postponed(tmp_path):
    task = Task()
    task.function = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        score(task, tmp_path)
