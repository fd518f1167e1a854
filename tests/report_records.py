"""Records of right and wrong answers to the documents of one task."""

from eval.leaderboard.board import boards_of
from eval.records import ModelRef, PoolRef, run_folder, write_record
from eval.sample_file import SAMPLES_NAME, Sample, read_samples
from eval.statistics.samples import Run, run_of
from tests.made_up_runs import make_record, stage_cost, suite_ref
from tests.made_up_runs import score as score_of

MACHINE = {
    "cpu": "a",
    "cores": 2,
    "threads": 2,
    "platform": "p",
    "devices": [],
    "python": "3.11",
}


def model(name):
    return ModelRef(name=name, location=f"zoo/{name}", revision=None, content_hash=name)


def suite(split="test"):
    return suite_ref(split, name=f"toy_{split}")


def pool(name="zoo", sources=("expert",), references=()):
    lists = {"sources": sources, "references": references}
    models = {key: tuple(map(model, model_names)) for key, model_names in lists.items()}
    return PoolRef(pool=name, pivot=model("base"), **models)


def answers(right, n=24):
    """The first ``right`` of ``n`` documents are answered rightly."""
    return [1.0] * right + [0.0] * (n - right)


def score(values):
    return score_of(sum(values) / len(values), n=len(values))


class Results:
    """A results folder that records are written to."""

    def __init__(self, root):
        self.root = root

    def add(self, name, right, *, seconds=1.0, mib=10, split="test", **changes):
        """Write a run with so many right answers per task; a number is one task in domain d."""
        tasks = {"d": right} if isinstance(right, int) else right
        values = {f"{domain}_task": answers(n) for domain, n in tasks.items()}
        defaults = {
            "fingerprint": f"{name}{len(list(self.root.glob('runs/*')))}", "models": pool(),
            "suite": suite(split), "domains": {f"{domain}_task": domain for domain in tasks},
            "merge_cost": stage_cost(seconds, mib), "provenance": MACHINE,
        }  # fmt: skip
        scores = {task: score(v) for task, v in values.items()}
        made = make_record(name, scores, **defaults | changes)
        write_record(self.root, made, None if made.error else samples(values))
        return made

    def add_unmerged(self, name, right, **changes):
        models = PoolRef(pool="zoo", pivot=model(name), sources=(), references=())
        changes = {"kind": "reference", "merge_cost": None, "models": models, **changes}
        return self.add(name, right, **changes)

    def add_refused(self, name, right=0, **changes):
        """A merge that its method refused; ``right`` only names the tasks."""
        changes = {"scores": {}, "merge_cost": None, "error": "needs other sources", **changes}
        return self.add(name, right, status="not applicable", **changes)

    def boards(self, records):
        return boards_of([self._run(record) for record in records])

    def _run(self, record):
        folder = run_folder(self.root, record.name, record.fingerprint)
        if not (folder / SAMPLES_NAME).exists():
            return Run(record=record, samples=None)
        return run_of(record, read_samples(folder))


def samples(values):
    return {
        task: [
            Sample(doc_id=i, doc_hash=f"{task}{i}", value=v) for i, v in enumerate(task_values)
        ]
        for task, task_values in values.items()
    }
