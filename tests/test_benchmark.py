"""Engine benchmark: models, metering, tables and figure."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.leaderboard.tables import read_leaderboard
from scripts.benchmark import processes
from scripts.benchmark.__main__ import main
from scripts.benchmark.alignment import measure as measure_alignment
from scripts.benchmark.cases import CASES, Difference, difference, peer_config
from scripts.benchmark.leaderboard import make_up_folder
from scripts.benchmark.models import SHAPES, n_bytes, write_models
from scripts.benchmark.processes import run_measured
from scripts.benchmark.report import Cost, Measurement, cost_of, figure, markdown
from scripts.benchmark.runs import Bench, copy_floor
from seme.checkpoint.reader import open_checkpoint

TINY = SHAPES["tiny"]
HERE = Path(__file__).parent
MEASURES = f"{sys.executable} -c".split()
ENVIRONMENT = {"cpu": "a processor", "cores": 2, "libraries": {"torch": "2", "absent": None}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("m"), TINY, 2, shard_bytes=100_000)


@pytest.mark.parametrize(
    ("shape", "n_parameters"), [("qwen2-0.5b", 494_032_768), ("llama-1.1b", 1_100_048_384)]
)
def test_benchmark_shapes_have_published_parameter_counts(shape, n_parameters):
    assert n_bytes(SHAPES[shape]) == 2 * n_parameters


def test_halved_shape_has_half_the_parameters():
    whole = SHAPES["llama-1.1b"]
    assert n_bytes(whole.halved()) / n_bytes(whole) == pytest.approx(0.5, abs=0.01)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "shape", [TINY, replace(SHAPES["qwen2-0.5b"], n_tokens=64, n_layers=1)]
)
def test_transformers_loads_benchmark_models_without_missing_keys(tmp_path, shape):
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    small = replace(shape, width=64, n_heads=4, n_kv_heads=2, n_neurons=96)
    base, _ = write_models(tmp_path, small, 1)
    _, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_sources_are_small_independent_changes_of_the_base(models):
    base, one, other = (open_checkpoint(m, root=m) for m in models)
    name = "model.layers.1.mlp.gate_proj.weight"
    values = [m.read(name).float() for m in (base, one, other)]
    assert values[0].std().item() == pytest.approx(0.02, rel=0.05)
    assert (values[1] - values[0]).std().item() == pytest.approx(1e-3, rel=0.05)
    assert (values[1] - values[2]).std().item() == pytest.approx(1e-3 * math.sqrt(2), rel=0.05)
    assert base.read("model.norm.weight").float().mean().item() == pytest.approx(1, abs=0.02)


def test_models_are_sharded_and_reproducible(models, tmp_path):
    assert len(list(models[0].glob("*.safetensors"))) > 1
    again = write_models(tmp_path, TINY, 2, shard_bytes=100_000)
    for one, other in zip(models, again, strict=True):
        for file in one.iterdir():
            assert file.read_bytes() == (other / file.name).read_bytes()


def test_measured_memory_and_time_include_child_processes():
    program = "import time; x = bytearray(b'1') * 80_000_000; time.sleep(0.6)"
    alone = run_measured([*MEASURES, program], cwd=HERE, environment={})
    assert alone.seconds > 0.6
    assert 80e6 < alone.peak_anon_bytes <= alone.peak_rss_bytes < 200e6
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    family = run_measured([*MEASURES, parent], cwd=HERE, environment={})
    assert 80e6 < family.peak_anon_bytes < 200e6


def test_child_memory_counts_from_its_second_sample(tmp_path, monkeypatch):
    # until it becomes a program of its own it shows the memory of its parent as its own
    children, counted = iter([[], [8], [8, 9], [9], []]), []

    def family(pid):
        seen = next(children, None)
        if seen is None:
            (tmp_path / "end").touch()
        return [pid, *(seen or [])]

    monkeypatch.setattr(processes, "_family", family)
    monkeypatch.setattr(processes, "_memory", lambda pids: counted.append(pids[1:]) or (0, 0))
    program = "import os, time\nwhile not os.path.exists('end'): time.sleep(0.01)"
    run_measured([*MEASURES, program], cwd=tmp_path, environment={})
    assert counted[:5] == [[], [], [8], [9], []]


def test_measured_process_gets_environment_and_captures_output(tmp_path):
    program = "import os; print(os.environ['HERE'], os.getcwd())"
    measured = run_measured([*MEASURES, program], cwd=tmp_path, environment={"HERE": "yes"})
    assert measured.output.split() == ["yes", str(tmp_path)]


def test_failed_process_raises_with_its_stderr(tmp_path):
    program = "import sys; sys.exit('out of luck')"
    with pytest.raises(RuntimeError, match=r"ended with 1:\nout of luck"):
        run_measured([*MEASURES, program], cwd=tmp_path, environment={})


def test_copy_floor_reads_all_models_and_writes_the_first(models, tmp_path):
    opened = [open_checkpoint(model, root=model) for model in models]
    assert copy_floor(tmp_path / "out", opened) > 0
    assert [model.bytes_read for model in opened] == [model.nbytes for model in opened]
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == set(opened[0].names)
    assert all(torch.equal(written[name], opened[0].read(name)) for name in written)


def test_mergekit_config_has_the_same_settings(tmp_path):
    paths = [tmp_path / name for name in ("base", "a", "b")]
    arithmetic = CASES["task_arithmetic"]
    config = peer_config(arithmetic.peer, paths, dtype="bfloat16", output_dtype="bfloat16")
    assert config == {
        "merge_method": "task_arithmetic",
        "base_model": str(paths[0]),
        "models": [{"model": str(path), "parameters": {"weight": 0.4}} for path in paths[1:]],
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
        "out_dtype": "bfloat16",
    }
    assert "method.lam=0.4" in arithmetic.overrides
    average = peer_config(
        CASES["average"].peer, paths, dtype="float32", output_dtype="bfloat16"
    )
    assert "base_model" not in average
    assert average["parameters"]["normalize"] is True


def test_difference_gives_the_largest_and_the_share_of_changed_elements(tmp_path):
    for name, values in {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 2.5, 3.0, 3.75]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"w": torch.tensor(values)}, tmp_path / name / "model.safetensors")
    assert difference(tmp_path / "a", tmp_path / "b") == Difference(largest=0.5, share=0.5)
    save_file({"v": torch.ones(4)}, tmp_path / "b" / "model.safetensors")
    with pytest.raises(ValueError, match="same tensors"):
        difference(tmp_path / "a", tmp_path / "b")


def cost(*seconds, rss=2e9, anon=1e9):
    return Cost(seconds=seconds, peak_rss_bytes=int(rss), peak_anon_bytes=int(anon))


def row(name="ties", **changes):
    values = {
        "name": name,
        "n_sources": 3,
        "n_parameters": 1_000_000,
        "first_seconds": 9.0,
        "engine": cost(4.0, 5.0, 9.0),
        "merge_seconds": 3.0,
        "floor_seconds": 1.5,
        "peer": cost(40.0, 60.0, 50.0, rss=4e9, anon=3e9),
        "difference": Difference(largest=0.25, share=0.125),
    }
    return Measurement(**{**values, **changes})


def test_cost_is_median_seconds_and_maximum_memory():
    program = [*MEASURES, "print()"]
    run = run_measured(program, cwd=HERE, environment={})
    runs = [
        replace(run, seconds=s, peak_rss_bytes=b) for s, b in [(1.0, 5), (9.0, 7), (2.0, 6)]
    ]
    total = cost_of(runs)
    assert (total.median_seconds, total.peak_rss_bytes) == (2.0, 7)


def test_benchmark_table_has_medians_and_ratios():
    text = markdown("Merging", ENVIRONMENT, [row()])
    assert "a processor, 2 cores; torch 2." in text
    assert f"Runs of each program: {len(row().engine.seconds)};" in text
    assert (
        "| ties | 5.0 | 50.0 | 10.0 | 3.00 | 2.0 | 2.00 | 1.00 | 4.00 | 3.00 | 0.25 | 12.5 % |"
        in text
    )
    assert "Cost against" not in text


def test_cells_without_a_mergekit_run_are_empty():
    text = markdown("Merging", ENVIRONMENT, [row("seme", peer=None, difference=None)])
    assert "| seme | 5.0 |  |  | 3.00 | 2.0 | 2.00 | 1.00 |  |  |  |  |" in text


def test_scaling_rows_are_in_a_separate_table():
    rows = [row(), row("dare"), row(n_sources=8, peer=None), row(n_parameters=500_000)]
    first, second = markdown("Merging", ENVIRONMENT, rows).split("## Cost against")
    assert (first.count("| ties |"), first.count("| dare |")) == (1, 1)
    lines = [line for line in second.splitlines() if line.startswith("| ties")]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["3", "0.5"],
        ["3", "1.0"],
        ["8", "1.0"],
    ]
    assert "dare" not in second


def test_benchmark_figure_labels_every_method():
    pytest.importorskip("matplotlib")
    content = figure([row(), row("dare", peer=None), row(n_sources=8)])
    assert content.startswith(b"<?xml")
    assert content.count(b"<!-- ties -->") + content.count(b"<!-- dare -->") >= 4


def test_engine_run_reports_its_seconds_and_cleans_up(models, tmp_path):
    bench = Bench(scratch=tmp_path, models=models, mergekit=None, pause=0.0)
    assert bench.with_sources(1).models == models[:2]
    measured, seconds = bench.merge(CASES["average"])
    assert 0 < seconds < measured.seconds
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.slow
def test_benchmark_runs_end_to_end_with_mergekit(tmp_path):
    arguments = "--shape tiny --methods average,seme --scaling average --repeats 1 --output"
    main([*arguments.split(), str(tmp_path)])
    content = json.loads((tmp_path / "tiny-3-sources.json").read_text())
    main_row = content["rows"][0]
    assert main_row["difference"]["largest"] <= 2**-8  # one step of bfloat16 at 1 or below
    assert [r["n_sources"] for r in content["rows"]] == [3, 3, 2, 4, 6, 8, 3]
    assert (tmp_path / "tiny-3-sources.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--methods", "tie"], r"unknown \['tie'\]; expected names from \['ace'"),
        (["--repeats", "0"], "must be at least 1, got 0"),
        (["--shape", "small"], "invalid choice: 'small'"),
    ],
)
def test_invalid_arguments_are_refused(arguments, match, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert re.search(match, capsys.readouterr().err)


def test_missing_mergekit_and_full_disk_stop_before_writing(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no file at"):
        main(["--mergekit", str(tmp_path / "absent")])
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr("scripts.benchmark.__main__.shutil.disk_usage", lambda _: usage)
    with pytest.raises(SystemExit, match=r"need 0.0 GB.*--scratch, or fewer --sources"):
        main(["--shape", "tiny", "--scratch", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seed", "in_frame"), [(None, True), (1000, False)])
def test_alignment_cost_is_measured(tmp_path, seed, in_frame):
    base, tuned = write_models(tmp_path / "family", SHAPES["tiny"], 1)
    if seed is not None:
        (tuned,) = write_models(tmp_path / "stranger", SHAPES["tiny"], 0, seed=seed)
    measured = measure_alignment(base, tuned)
    assert (measured["distance_from_identity"] < 0.1) == in_frame
    assert measured["seconds"]["alignment"] > 0
    assert (
        0
        < measured["start_bytes"]
        <= measured["peak_bytes_of_alignment"]
        <= measured["peak_bytes"]
    )


def test_made_up_results_folder_is_ranked(tmp_path):
    make_up_folder(tmp_path, range(3))
    leaderboard = read_leaderboard(tmp_path)
    (board,) = leaderboard.boards
    assert (len(board.rows), len(board.merges), leaderboard.problems) == (7, 3, ())
    assert set(leaderboard.standings) == {row.record.fingerprint for row in board.merges}
