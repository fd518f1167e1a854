"""A mirror of one data set of a few sums, and lm-eval tasks that read it."""

import json
import textwrap

SUMS = "org/sums"
"""Configurations easy (train, test) and hard (test)."""

_CARD = """\
---
configs:
- config_name: easy
  data_files:
  - {split: train, path: easy/train.jsonl}
  - {split: test, path: easy/test.jsonl}
- config_name: hard
  data_files:
  - {split: test, path: hard/test.jsonl}
---
"""
_COMMON = """
output_type: multiple_choice
doc_to_text: "{{a}} + 1 ="
doc_to_choice: ["2", "3"]
doc_to_target: target
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "easy": "dataset_path: org/sums\ndataset_name: easy\ntraining_split: train\n"
    "test_split: test\nfewshot_split: train\ndataset_kwargs: {trust_remote_code: true}",
    "hard": "dataset_path: org/sums\ndataset_name: hard\ntraining_split: train\n"
    "test_split: test",
    "lines": "dataset_path: json\nvalidation_split: test\ndataset_kwargs: "
    "{data_files: {test: 'hf://datasets/org/sums/hard/test.jsonl'}}",
}


def write_sums(folder):
    """Write the data set's files into its folder, as ``hf download --local-dir`` does."""
    for name, numbers in {
        "easy/train": (1, 2, 1),
        "easy/test": (1, 2),
        "hard/test": (2,),
    }.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"a": a, "target": a - 1}) for a in numbers]
        path.write_text("\n".join(rows) + "\n")
    (folder / "README.md").write_text(_CARD)
    return folder


def write_snapshot(root, name=SUMS, *, write=write_sums):
    """Write the data set in the layout of the Hub's cache."""
    repository = root / f"datasets--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    (repository / "snapshots" / "0ther").mkdir(parents=True)
    return write(repository / "snapshots" / "c0ffee")


def write_tasks(folder, tasks=TASKS, **files):
    """Write task files, each with a question and its choices; and other files as they are."""
    folder.mkdir(exist_ok=True)
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}\n{_COMMON}")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(textwrap.dedent(text))
    return folder
