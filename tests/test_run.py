"""Runs end to end: in process on tiny models, from the command line, on the zoo."""

import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import seme.engine
import seme.publishing.push
from eval import harness
from eval.leaderboard.tables import read_leaderboard
from eval.records import read_record
from eval.results_folder import load_results
from eval.runs import ON_CONSOLE, Cell, OnConsole
from eval.sample_file import read_samples
from seme.interface import traits_of
from seme.job import MergeJob
from seme.publishing.manifest import read_manifest
from seme.publishing.verification import verify_folder
from seme_bench.cell import _left, run_cell
from seme_bench.folders import HOME as ROOT
from seme_bench.interruption import LINE, WAITS
from tests.adapters import pair, write_adapter
from tests.configurations import assembled
from tests.gguf_files import write_gguf
from tests.golden_merges import GIVEN, method_of

NAMES = ("base", "code", "french")
TIMES = ("started_at", "seconds_total", "merge_cost", "evaluation_cost")
DATA = """
from datasets import Dataset, DatasetDict
def load(**_):
    texts = enumerate(["x", "yz", "w"])
    rows = [dict(text=t, choices=["a", "bc"], gold=i % 2) for i, t in texts]
    return DatasetDict(test=Dataset.from_list(rows))
"""
PICK = """
task: pick
output_type: multiple_choice
custom_dataset: !function data.load
test_split: test
doc_to_text: text
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def zoo(make_llama, tmp_path_factory):
    """Three tiny models, one that holds a NaN, and a folder with one task."""
    root = tmp_path_factory.mktemp("zoo")
    tokenizer = Tokenizer(models.BPE())
    alphabet = ["<s>", *"abcdefghijklmnopqrstuvwxyzĠ"]
    tokenizer.model = models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    for seed, name in enumerate(NAMES):
        fast.save_pretrained(make_llama(root / name, seed, initializer_range=0.5))
    shutil.copytree(root / "code", root / "broken")
    weights = load_file(root / "broken/model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, root / "broken/model.safetensors", metadata={"format": "pt"})
    (root / "tasks").mkdir()
    (root / "tasks/data.py").write_text(DATA)
    (root / "tasks/pick.yaml").write_text(PICK)
    return root


@pytest.fixture
def cell(zoo, tmp_path):
    """Run one cell in this process: ``cell("tau=0.5", method="ties", sources=["code"])``."""
    task = {"task": "pick", "metric": "acc", "domain": "d", "kind": "multiple_choice"}
    suite = {
        "name": "tiny", "split": "test", "include_path": str(zoo / "tasks"), "batch_size": 2,
        "limit": None, "held_out": [], "tasks": [task | {"score": "raw"}],
    }  # fmt: skip

    def run(
        *overrides, method="average", sources=("code", "french"), evaluated=True, options=()
    ):
        all_overrides = [
            f"method={method}", "suite=none", "tracker=none", "device=cpu", "models=custom",
            f"models.pivot={zoo}/base",
            f"models.sources=[{','.join(f'{zoo}/{s}' for s in sources)}]",
            f"output={tmp_path}/results", *overrides,
        ]  # fmt: skip
        config = assembled(*all_overrides)
        suites = {"suite": suite | dict(options)} if evaluated else {}
        return run_cell(
            {**config, **suites}, method_name=method, group="sweep-7", label=method, root=ROOT
        )

    return run


def record_paths(folder, results="results"):
    return {
        path.parent.name[:-13]: path for path in folder.glob(f"{results}/runs/*/record.json")
    }


def timeless(path):
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in TIMES}


def test_run_writes_records_of_the_merge_and_each_model(cell, zoo, tmp_path):
    record = cell("method.weights=[1,3]")
    records = {r.name: r for r in load_results(tmp_path / "results").records}
    size = sum(t.nbytes for t in load_file(zoo / "base/model.safetensors").values())
    assert records["average"] == record
    assert {(r.name, r.kind, r.status) for r in records.values()} == {
        ("average", "merge", "done"), *((name, "reference", "done") for name in NAMES)
    }  # fmt: skip
    assert record.settings == {"weights": [1, 3]}
    assert record.models.pool == "custom: base + code, french"
    assert record.merge["bytes_read"] == 3 * record.merge["bytes_written"] == 3 * size
    assert record.merge_cost.seconds > 0
    assert record.evaluation_cost.peak_rss_bytes > size


def test_an_adapter_and_a_checkpoint_are_merged(cell, zoo, tmp_path):
    lora = write_adapter(zoo / "base", pair(rank=1), r=1, lora_alpha=3)
    source = f"{{path_to_adapter: {lora}, name: lora}}"
    kept = tmp_path / "kept"
    record = cell(
        f"models.sources=[{source},{zoo}/code]", f"merged_dir={kept}", evaluated=False
    )
    assert [s.name for s in record.models.sources] == ["lora", "code"]
    base, code, merged = (
        load_file(f / "model.safetensors") for f in (zoo / "base", zoo / "code", kept)
    )
    changed = {"model.layers.0.self_attn.q_proj.weight": 3.0}  # alpha / r times ones
    for name, values in merged.items():
        adapted = base[name].double() + changed.get(name, 0.0)
        expected = (adapted + code[name].double()) / 2
        assert torch.allclose(values.double(), expected, rtol=1e-6, atol=1e-7), name


def test_adapter_is_scored_on_the_given_base(cell, zoo, tmp_path):
    lora = write_adapter(zoo / "base", pair(), base_model_name_or_path="./gone")
    source = f"{{path_to_adapter: {lora}, location: {zoo}/code, name: lora}}"
    cell(f"models.sources=[{source}]")
    code = load_file(zoo / "code/model.safetensors")
    code["model.layers.0.self_attn.q_proj.weight"] += 6 / 2 * 2  # alpha / r * B A of ones
    shutil.copytree(zoo / "code", tmp_path / "whole")
    save_file(code, tmp_path / "whole/model.safetensors", metadata={"format": "pt"})
    cell(f"models.sources=[{tmp_path}/whole]")
    records = {record.name: record for record in load_results(tmp_path / "results").records}
    assert records["lora"].scores["pick"] == records["whole"].scores["pick"]
    assert records["lora"].status == "done"
    assert not list((tmp_path / "results").glob("scratch*"))


def test_gguf_models_are_merged_and_scored(cell, tmp_path):
    path = write_gguf(tmp_path / "base.gguf", kind="Q8_0")
    cell(f"models.pivot={path}", f"models.sources=[{path}]")
    records = {record.name: record for record in load_results(tmp_path / "results").records}
    merged, unmerged = records["average"], records["base.gguf"]
    assert merged.scores["pick"] == unmerged.scores["pick"]
    for model in (merged.models.pivot, merged.models.sources[0], unmerged.models.pivot):
        assert model.more["dequantised_from"]["types"] == {"F32": 5, "Q8_0": 15}


def test_mean_of_samples_is_the_score(cell, tmp_path):
    record = cell()
    samples = read_samples(record_paths(tmp_path)["average"].parent)["pick"]
    assert len(set(samples.doc_hashes)) == 3
    assert samples.values.mean() == record.scores["pick"].value


def test_run_leaves_only_records_and_locks(cell, tmp_path):
    cell()
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"runs", ".locks"}
    left = {path.name for path in (tmp_path / "results/runs").rglob("*")}
    assert {name for name in left if "-" not in name} == {"record.json", "samples.jsonl.gz"}


def test_merged_dir_is_written_and_never_overwritten(cell, zoo, tmp_path):
    cell(f"merged_dir={tmp_path}/merged", evaluated=False)
    merged, code, french = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "merged", zoo / "code", zoo / "french")
    )
    assert all(merged[n].equal((code[n] + french[n]) / 2) for n in merged)
    with pytest.raises(ValueError, match=f"{tmp_path}/merged already exists"):
        cell(f"merged_dir={tmp_path}/merged", "seed=1", evaluated=False)
    assert load_file(tmp_path / "merged/model.safetensors").keys() == merged.keys()


def test_finished_run_is_skipped_at_an_unused_tau(cell, tmp_path, caplog):
    record = cell("tau=0.1")
    stamps = {path: path.stat().st_mtime_ns for path in record_paths(tmp_path).values()}
    with caplog.at_level(logging.INFO):
        assert cell("tau=0.2") == record
    assert "done before" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_force_repeats_only_the_merge_reproducibly(cell, tmp_path):
    cell(method="ties")
    paths = record_paths(tmp_path)
    before, stamps = timeless(paths["ties"]), [p.stat().st_mtime_ns for p in paths.values()]
    samples = (paths["ties"].parent / "samples.jsonl.gz").read_bytes()
    cell("force=true", method="ties")
    again = [p.stat().st_mtime_ns for p in paths.values()]
    changed = {name for name, a, b in zip(paths, stamps, again, strict=True) if a != b}
    assert changed == {"ties"}
    assert timeless(paths["ties"]) == before
    assert (paths["ties"].parent / "samples.jsonl.gz").read_bytes() == samples


@pytest.fixture
def work(monkeypatch):
    """What is merged and scored, as it happens."""
    done, merge, score = [], MergeJob.run, harness.score

    def merging(job, destination, **options):
        done.append("merge")
        return merge(job, destination, **options)

    def scoring(model, *arguments, **options):
        done.append(f"score {Path(model).name.split('-')[0]}")
        return score(model, *arguments, **options)

    monkeypatch.setattr(MergeJob, "run", merging)
    monkeypatch.setattr(harness, "score", scoring)
    return done


def broken_metric(*_):
    raise ZeroDivisionError("a metric without documents")


def test_scores_survive_an_error_after_scoring(cell, tmp_path, monkeypatch, work, caplog):
    expected = cell(f"output={tmp_path}/undisturbed")
    work.clear()
    with monkeypatch.context() as patch:
        patch.setattr(harness, "score_of", broken_metric)
        with pytest.raises(ZeroDivisionError) as caught:
            cell()
        assert "merge and scores are kept in" in caught.value.__notes__[0]
        assert work == ["merge", "score scratch"]
        path = record_paths(tmp_path)["average"]
        failed = read_record(path)
        assert failed.status == "failed"
        assert failed.error.startswith("ZeroDivisionError: a metric without documents\nraised")
        assert failed.merge == expected.merge
        assert failed.scores == {}
        with pytest.raises(ZeroDivisionError):  # still broken: still kept, nothing repeated
            cell()
        assert work == ["merge", "score scratch"]
        assert read_record(path).merge_cost == failed.merge_cost
    with caplog.at_level("INFO", "eval"):
        record = cell()
    assert "takes up the scores kept in" in caplog.text
    assert work == ["merge", "score scratch", *(f"score {name}" for name in NAMES)]
    assert (record.scores, record.metrics) == (expected.scores, expected.metrics)
    assert record.merge_cost == failed.merge_cost
    assert record.evaluation_cost == failed.evaluation_cost
    assert timeless(path) == timeless(record_paths(tmp_path, "undisturbed")["average"])
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "record.json",
        "samples.jsonl.gz",
    ]


def test_scores_survive_an_error_of_a_tasks_own_aggregation(cell, tmp_path, work):
    data = f"{DATA}\ndef worst(values):\n    return min(values) / 0\n"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/data.py").write_text(data)
    other = "{metric: acc_norm, aggregation: !function data.worst, higher_is_better: true}"
    acc = "{metric: acc, aggregation: mean, higher_is_better: true}"
    text = PICK.replace(f"[{acc}]", f"[{acc}, {other}]")
    (tmp_path / "tasks/pick.yaml").write_text(text)
    options = {"include_path": str(tmp_path / "tasks")}
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            cell(options=options)
        assert "while aggregating acc_norm of pick over its documents" in caught.value.__notes__
    assert work == ["merge", "score scratch"]
    (path,) = record_paths(tmp_path).values()
    assert path.with_name("scored.json.gz").exists()


def test_answers_survive_an_error_of_a_tasks_own_function_of_a_document(
    cell, tmp_path, work, monkeypatch
):
    process = """
import os
def process(doc, results):
    if doc["text"] == "yz" and "WORDS" not in os.environ:
        raise LookupError("the words are not installed")
    return {"acc": float(results[doc["gold"]] == max(results))}
"""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/data.py").write_text(DATA + process)
    text = f"{PICK}process_results: !function data.process\n"
    (tmp_path / "tasks/pick.yaml").write_text(text)
    options = {"include_path": str(tmp_path / "tasks")}
    for _ in range(2):
        with pytest.raises(LookupError, match="not installed") as caught:
            cell(options=options)
        place = "while process_results computed the metrics of document 1 of pick"
        assert place in caught.value.__notes__
    assert work == ["merge", "score scratch"]
    monkeypatch.setenv("WORDS", "here")
    record = cell(options=options)
    assert work == ["merge", "score scratch", *(f"score {name}" for name in NAMES)]
    assert record.scores["pick"].n == 3


def test_scores_of_an_unmerged_model_survive_too(cell, tmp_path, monkeypatch, work):
    calls, real = [], harness.score_of

    def second_fails(*arguments):
        calls.append(arguments)
        return real(*arguments) if len(calls) != 2 else broken_metric()

    monkeypatch.setattr(harness, "score_of", second_fails)
    with pytest.raises(ZeroDivisionError):
        cell()
    cell()
    assert work == ["merge", "score scratch", *(f"score {name}" for name in NAMES)]
    assert {r.status for r in load_results(tmp_path / "results").records} == {"done"}


def test_kept_scores_that_are_damaged_are_made_again(cell, tmp_path, monkeypatch, work):
    with monkeypatch.context() as patch:
        patch.setattr(harness, "score_of", broken_metric)
        with pytest.raises(ZeroDivisionError):
            cell()
    kept = record_paths(tmp_path)["average"].with_name("scored.json.gz")
    kept.write_bytes(b"damaged")
    assert cell().status == "done"
    assert work[:4] == ["merge", "score scratch"] * 2
    assert not kept.exists()


def test_force_repeats_a_run_whose_scores_were_kept(cell, monkeypatch, work):
    with monkeypatch.context() as patch:
        patch.setattr(harness, "score_of", broken_metric)
        with pytest.raises(ZeroDivisionError):
            cell()
    assert cell("force=true").status == "done"
    assert work[:4] == ["merge", "score scratch"] * 2


def test_model_in_two_pools_is_evaluated_once(cell, tmp_path, monkeypatch):
    evaluated, real = [], harness.score

    def counted(model, *arguments, **options):
        evaluated.append(Path(model).name.split("-")[0])
        return real(model, *arguments, **options)

    monkeypatch.setattr(harness, "score", counted)
    cell(sources=["code"])
    cell(sources=["french"])
    assert sorted(evaluated) == ["base", "code", "french", "scratch", "scratch"]
    boards = read_leaderboard(tmp_path / "results").boards
    assert [[row.name for row in board.rows] for board in boards] == [
        ["base", "code", "average"],
        ["base", "french", "average"],
    ]


def test_unmerged_models_that_other_workers_score_come_last(cell, monkeypatch, work):
    monkeypatch.setattr(Cell, "is_taken", lambda _, draft: draft.name in ("base", "code"))
    cell()
    assert work == ["merge", "score scratch", "score french", "score base", "score code"]


def test_a_chat_template_is_asked_of_every_model_before_a_merge(cell, zoo, tmp_path):
    for name in ("base", "code"):
        shutil.copytree(zoo / name, tmp_path / name)
    template = tmp_path / "base/chat_template.jinja"
    template.write_text("{{ messages[-1].content }}")
    pivot, sources = f"models.pivot={tmp_path}/base", f"models.sources=[{tmp_path}/code]"
    with pytest.raises(ValueError, match=f"tokenizer in {tmp_path}/code has no chat template"):
        cell(pivot, sources, options={"chat_template": True})
    assert not (tmp_path / "results").exists()
    shutil.copy(template, tmp_path / "code")
    record = cell(pivot, sources, options={"chat_template": True, "dtype": "bfloat16"})
    assert record.suite.more["chat_template"] is True
    assert record.suite.more["dtype"] == "bfloat16"


def test_failed_merge_is_recorded_and_leaves_no_weights(cell, tmp_path):
    message = r"model.norm.weight of source 1 .*broken.* holds NaN"
    with pytest.raises(ValueError, match=message):
        cell(sources=["code", "broken"])
    (record,) = load_results(tmp_path / "results").records
    assert record.status == "failed"
    assert record.error.endswith("while merging model.norm.weight with shape (16,)")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("method", sorted(p.stem for p in ROOT.glob("conf/method/*.yaml")))
def test_every_method_merges_from_its_configuration(cell, method):
    most = traits_of(method_of(method)).max_sources
    sources = ("code", "french")[:most]
    given = [f"method.{key}={value}" for key, value in GIVEN.get(method, {}).items()]
    record = cell(*given, method=method, sources=sources, evaluated=False)
    assert (record.status, record.merge["n_merged"]) == ("done", 21)


def test_interrupted_merge_leaves_no_weights_or_record(cell, tmp_path, monkeypatch):
    n_left, real = iter([True, True]), seme.engine.round_merged

    def interrupted(dtype, **block):
        if not next(n_left, False):
            assert list(tmp_path.rglob("*.safetensors"))  # it is in the middle of writing
            raise KeyboardInterrupt
        return real(dtype, **block)

    monkeypatch.setattr(seme.engine, "round_merged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cell()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".free"}


def test_offline_wandb_file_has_group_and_scores(cell, tmp_path):
    record = cell("tracker=wandb", sources=["code"])
    paths = tmp_path.rglob("wandb/offline-run-*/*.wandb")
    content = b"".join(path.read_bytes() for path in paths)
    for text in ("sweep-7", f"average-{record.fingerprint[:12]}", "score/pick"):
        assert text.encode() in content


def command_line(folder, *arguments, cwd):
    command = [sys.executable, str(ROOT / "run.py"), *arguments, f"output={folder}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_sweep_continues_after_a_failed_cell(zoo, tmp_path):
    pool = ["models=custom", f"models.pivot={zoo}/base", f"models.sources=[{zoo}/code]"]
    done = command_line(
        tmp_path / "out", "-m", "method=ties,average", "tau=3,0.5", *pool, "suite=none",
        "tracker=none", cwd=tmp_path,
    )  # fmt: skip
    errors = done.stderr.splitlines()
    assert done.returncode == 1
    assert "4 runs, 2 failed, 0 not applicable" in done.stdout
    assert [line.split(" models=")[0] for line in errors] == [
        "error: method=ties tau=3", "error: method=average tau=3"
    ]  # fmt: skip
    assert all(line.endswith("tau must be in (0, 1], got 3") for line in errors)
    assert "\x1b" not in done.stdout + done.stderr
    board = (tmp_path / "out/leaderboard.md").read_text()
    assert [line.split(" | ")[2] for line in board.splitlines()[-2:]] == ["average", "ties"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.lam=inf", "lam must be a finite number, got inf"),
        ("method.density=1.5", "density must be in (0, 1], got 1.5"),
        ("method=slerp", "baselines.slerp.merge merges exactly 1 source into the pivot, got 2: "
         "change models.sources"),
    ],
)  # fmt: skip
def test_out_of_range_hyper_parameter_exits_with_one_error_line(
    override, message, zoo, tmp_path
):
    sources = f"models.sources=[{zoo}/code,{zoo}/french]"
    pool = ["models=custom", f"models.pivot={zoo}/base", sources]
    method = [] if override.startswith("method=") else ["method=ties"]
    done = command_line(
        tmp_path / "out", *method, override, *pool, "suite=none", "tracker=none", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    (path,) = tmp_path.glob("out/sweeps/*/cell.json")
    assert json.loads(path.read_text())["error"] == message
    assert not list(tmp_path.glob("out/runs/*"))


def test_two_line_pool_and_suite_are_named_after_their_files(zoo, tmp_path):
    conf, out = tmp_path / "conf", tmp_path / "out"
    for group in ("models", "suite"):
        (conf / group).mkdir(parents=True)
    task = (
        "metric_list: [{metric: acc}]\ndataset_path: json\ndataset_kwargs: {data_files: {test: "
    )
    rows = [json.dumps({"text": text, "choices": ["a", "bc"], "gold": 0}) for text in "xyzw"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    lines = [line for line in PICK.splitlines() if "custom_dataset" not in line][:-1]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/pick.yaml").write_text(
        "\n".join([*lines, f"{task}{tmp_path}/rows.jsonl}}}}"])
    )
    (conf / "models/mine.yaml").write_text(f"pivot: {zoo}/base\nsources: [{zoo}/code]\n")
    (conf / "suite/mine.yaml").write_text(f"include_path: {tmp_path}/own\ntasks: [pick]\n")
    done = command_line(
        out, f"--config-dir={conf}", "models=mine", "suite=mine", "suite.limit=2",
        "method=average", "tracker=none", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")  # nothing of lm-eval's
    assert "mine · suite mine, the first 2 documents of each task" in done.stdout
    record = json.loads(record_paths(tmp_path, "out")["average"].read_text())
    assert (record["models"]["pool"], record["suite"]["limit"]) == ("mine", 2)


def test_invalid_input_is_one_line_on_stderr(zoo, tmp_path):
    pool = ["models=custom", f"models.pivot={zoo}/base", f"models.sources=[{zoo}/tasks]"]
    done = command_line(tmp_path / "out", *pool, "suite=none", "tracker=none", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: {zoo}/tasks .*config\.json.*\n", done.stderr)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_interrupted_command_says_so_and_leaves_nothing_half_done(zoo, tmp_path, number, code):
    models = [f"models.pivot={zoo}/base", f"models.sources=[{zoo}/code]"]
    command = [
        sys.executable, ROOT / "run.py", "-m", "method=average", "seed=0,1,2,3,4,5,6,7,8,9",
        "models=custom", *models, "suite=none", "tracker=none", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    before = signal.signal(number, signal.SIG_DFL)  # under nohup a child would ignore SIGHUP
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(number, before)
    while not list(tmp_path.glob("out/.locks/*/*.lock")):  # in the midst of a run
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    _, error = child.communicate()
    assert child.returncode == code
    lines = [line for line in error.splitlines() if line]
    if (
        number == signal.SIGINT and len(lines) == 2
    ):  # during a merge; between two it ends at once
        assert lines.pop(0) == WAITS
        assert list(tmp_path.glob("out/runs/*/record.json"))
        cells = [f for f in tmp_path.glob("out/sweeps/*/*/") if f.name.isdecimal()]
        assert all((cell / "cell.json").is_file() for cell in cells)  # no other was begun
    assert lines == [LINE]
    assert not list(tmp_path.glob("out/*scratch*"))


def test_leftovers_of_a_killed_run_are_removed_by_any_next_one(zoo, tmp_path):
    scratch = tmp_path / "out/scratch-ties-0123456789ab"
    scratch.mkdir(parents=True)
    (tmp_path / "out/runs/ties-0123456789ab").mkdir(parents=True)
    file = tmp_path / "out/runs/ties-0123456789ab/.samples.jsonl.gz.abcd1234"
    file.touch()
    os.utime(file, (0, 0))
    pool = ["models=custom", f"models.pivot={zoo}/base", "models.sources=[/data/${x}]"]
    done = command_line(tmp_path / "out", *pool, "suite=none", "tracker=none", cwd=tmp_path)
    assert done.stderr == (
        "error: models.sources[0] cannot be resolved: Interpolation key 'x' not found; a "
        "literal ${ is written \\${\n"
    )
    assert not scratch.exists()
    assert not file.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output=/proc/x", "nothing can be written in /proc"),
        ("method._target_=seme.method", "must be a function|does not exist"),
    ],
)
def test_what_cannot_be_recorded_or_written_is_refused_in_one_line(
    override, message, zoo, tmp_path
):
    pool = ["models=custom", f"models.pivot={zoo}/base", f"models.sources=[{zoo}/code]"]
    arguments = [*pool, "method=average", "suite=none", "tracker=none"]
    output = [] if override.startswith("output") else [f"output={tmp_path / 'out'}"]
    command = [sys.executable, str(ROOT / "run.py"), *arguments, *output, override]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.search(f"^error: .*({message})", done.stderr)
    assert not list(tmp_path.glob("out/runs/*"))


def test_sweep_over_the_embedded_benchmark_writes_its_leaderboard(tmp_path):
    sweep = ["-m", "method=average,seme", "tau=0.2", "suite.limit=8", "tracker=none"]
    done = command_line(tmp_path / "out", *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (board,) = read_leaderboard(tmp_path / "out").boards
    assert (board.pool, board.suite, len(board.tasks)) == ("zoo", "zoo", 12)
    assert [row.name for row in board.references] == [
        "base", "code", "mathematics", "french", "german", "format", "multitask"
    ]  # fmt: skip
    assert sorted(row.name for row in board.merges) == ["average", "seme"]
    assert all(row.status == "done" and row.mean.value > 0.1 for row in board.rows)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, ""), (0.2, ", about 1 s left"), (59.4, ", about 59 s left"),
     (60.0, ", about 1 min left"), (3599.0, ", about 1 h 00 min left"),
     (7500.0, ", about 2 h 05 min left")],
)  # fmt: skip
def test_time_left_is_said_in_words(seconds, text):
    assert _left(seconds) == text


def test_steps_are_in_the_log_file_and_off_a_console_that_shows_bars_or_is_quiet(cell, caplog):
    with caplog.at_level(logging.INFO):
        cell("quiet=true", sources=["code"])
    steps = [r for r in caplog.records if hasattr(r, ON_CONSOLE)]
    assert [r.getMessage() for r in steps] == [
        "average  merging 1 source",
        "average  scoring on tiny, 1 task",
        *(line for line in (r.getMessage() for r in steps) if "(unmerged), " in line),
    ]
    assert len(steps) == 4
    assert not any(OnConsole().filter(record) for record in steps)
    others = [r for r in caplog.records if not hasattr(r, ON_CONSOLE)]
    assert all(OnConsole().filter(record) for record in others)


def test_kept_merge_has_a_card_with_scores_and_is_verified(cell, tmp_path):
    record = cell(f"merged_dir={tmp_path}/merged", method="ties")
    assert verify_folder(tmp_path / "merged").problems == ()
    data = ModelCard.load(tmp_path / "merged/README.md").data
    score = record.scores["pick"]
    read = [(r.dataset_type, r.metric_type, r.metric_value) for r in data.eval_results]
    assert read == [("pick", "acc", score.value), ("pick", "acc_stderr", score.stderr)]
    manifest = read_manifest(tmp_path / "merged")
    assert [model.content_hash for model in manifest.models] == [
        model.content_hash for model in record.models.merged
    ]


def test_merge_whose_evaluation_fails_is_kept_with_its_manifest(cell, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no scores today")

    monkeypatch.setattr(harness, "score", fail)
    with pytest.raises(ValueError, match="no scores today"):
        cell(f"merged_dir={tmp_path}/merged")
    assert verify_folder(tmp_path / "merged").problems == ()
    assert "## Scores" not in (tmp_path / "merged/README.md").read_text()


def test_upload_without_a_kept_merge_is_refused_before_models_are_opened(cell):
    with pytest.raises(ValueError, match="push needs merged_dir=FOLDER"):
        cell("push=org/mine", "models.pivot=absent")


def test_kept_merge_is_uploaded_after_its_record(cell, tmp_path, monkeypatch):
    def upload(folder, repository):
        assert len(record_paths(tmp_path)) == 1
        return f"{repository} {sorted(path.name for path in folder.iterdir())[0]}"

    monkeypatch.setattr(seme.publishing.push, "push", upload)
    monkeypatch.setenv("SEME_ONLINE", "1")
    said = []
    monkeypatch.setattr("seme_bench.cell._log.info", lambda form, *a: said.append(form % a))
    cell("push=org/mine", f"merged_dir={tmp_path}/merged", evaluated=False)
    assert said[-1] == "average  uploaded: org/mine README.md"
