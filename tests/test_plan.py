"""The plan of a merge: counts that the merge then meets, from headers or from config and index."""

import functools
import io
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import seme.plan
from baselines.average import merge as average
from baselines.slerp import merge as slerp
from baselines.ties import merge as ties
from seme.budget import compared_bytes, rewritten_bytes, share_out
from seme.calibration import Calibration, calibrate
from seme.checkpoint.outline import open_outline
from seme.checkpoint.reader import open_checkpoint
from seme.columns import held_bytes
from seme.engine import merge_checkpoints
from seme.interface import CheckpointMismatchError
from seme.method import merge as seme_merge
from seme.plan import bytes_of_walk, plan_merge, plan_table
from tests.seme_merges import SETTINGS as SEME
from tests.settings import SETTINGS

AVERAGE = functools.partial(average, weights=None)
TIES = functools.partial(ties, density=0.2, lam=1.0, scope="model", trim_ties="exact")
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
KINDS = (
    "input_layernorm",
    "post_attention_layernorm",
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


@pytest.fixture
def llama_8b(tmp_path):
    """Config and index of a model of 8 billion parameters; no shards."""
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    names += [f"model.layers.{layer}.{kind}.weight" for layer in range(32) for kind in KINDS]
    return outline_folder(tmp_path / "llama-8b", LLAMA_8B, names)


def outline_folder(folder, config, names):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    placed = {name: f"model-{i % 4}.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.fixture
def models(tmp_path, make_llama):
    folders = [
        make_llama(tmp_path / str(seed), seed, dtype=torch.bfloat16) for seed in range(3)
    ]
    return [open_checkpoint(folder, root=tmp_path) for folder in folders]


@pytest.fixture
def known_speeds(monkeypatch):
    """A machine of round numbers, whose methods read everything twice."""
    found = Calibration(
        seconds_per_parameter=1e-9,
        fixed_seconds=0.5,
        passes=2.0,
        read_bytes_per_second=1e9,
        write_bytes_per_second=5e8,
    )
    monkeypatch.setattr("seme.plan.calibrate", lambda *_, **__: found)


def planned(models, method=AVERAGE, *, destination=None, **options):
    where = destination or models[0].path.parent / "new" / "merged"
    settings = replace(SETTINGS, **options)
    return plan_merge(method, models[0], models[1:], where, settings=settings)


@pytest.mark.usefixtures("known_speeds")
def test_eight_billion_parameters_are_planned_from_config_and_index(llama_8b):
    model = open_outline(llama_8b, root=llama_8b)
    plan = planned([model, model, model])
    assert (len(plan.merged), plan.n_parameters) == (291, 8_030_261_248)
    assert plan.written_bytes == 16_060_522_496  # what the published index states
    assert plan.read_bytes == 2 * 3 * 16_060_522_496
    # 8.03 s of computing and 32.1 s of writing at 0.5 GB/s, during 96.4 s of reading at 1 GB/s
    assert plan.seconds == pytest.approx(0.5 + 96.363, abs=1e-2)


def test_an_outline_is_the_checkpoint_itself_where_the_shards_are_there(models, monkeypatch):
    monkeypatch.setattr(
        "seme.checkpoint.outline._specs_of_architecture", lambda _: pytest.fail("asked")
    )
    outline = open_outline(models[0].path, root=models[0].path)
    assert [outline.spec(n) for n in outline.names] == [
        models[0].spec(n) for n in outline.names
    ]


def test_the_shapes_of_an_outline_are_those_on_disk(models, tmp_path):
    config = json.loads((models[0].path / "config.json").read_text())
    outline = open_outline(
        outline_folder(tmp_path / "o", config, models[0].names), root=tmp_path
    )
    assert {n: outline.spec(n) for n in outline.names} == {
        n: models[0].spec(n) for n in models[0].names
    }


def test_the_head_of_a_tied_outline_is_not_counted(tmp_path, models):
    config = json.loads((models[0].path / "config.json").read_text())
    tied = outline_folder(
        tmp_path / "o", {**config, "tie_word_embeddings": True}, models[0].names
    )
    assert "lm_head.weight" not in open_outline(tied, root=tmp_path).names


def test_a_tensor_of_unknown_shape_is_named(tmp_path, models):
    config = json.loads((models[0].path / "config.json").read_text())
    folder = outline_folder(tmp_path / "o", config, ["model.norm.weight", "odd.weight"])
    with pytest.raises(ValueError, match=r"shapes of 1 tensors do not follow .* odd.weight"):
        open_outline(folder, root=tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_the_merge_reads_and_writes_what_was_planned(models, tmp_path, dtype):
    plan = planned(models, dtype=dtype)
    assert [model.bytes_read for model in models] == [0, 0, 0]
    report = merge_checkpoints(
        AVERAGE,
        models[0],
        models[1:],
        tmp_path / "merged",
        settings=replace(SETTINGS, dtype=dtype),
        progress=False,
    )
    assert (plan.read_bytes, plan.written_bytes) == (report.bytes_read, report.bytes_written)
    assert (len(plan.merged), plan.n_parameters) == (report.n_merged, report.n_parameters)
    sizes = [
        tensor.nbytes for tensor in load_file(tmp_path / "merged/model.safetensors").values()
    ]
    assert plan.written_bytes == sum(sizes)


@pytest.mark.usefixtures("known_speeds")
def test_copied_tensors_are_read_from_the_pivot_only(models):
    plan = planned(models, exclude=("*norm*",))
    norms = 5 * 16 * 2
    assert plan.copied["model.norm.weight"] == "excluded by *norm*"
    assert plan.read_bytes == 2 * (3 * models[0].nbytes - 2 * norms)


def test_a_source_of_other_names_counts_whole(models, tmp_path, make_llama):
    deep = open_checkpoint(make_llama(tmp_path / "d", 5, num_hidden_layers=3), root=tmp_path)
    found = bytes_of_walk(models[0], [deep], models[0].names, {})
    assert found == models[0].nbytes + sum(deep.spec(name).nbytes for name in models[0].names)
    found = bytes_of_walk(deep, [models[0]], deep.names, {})
    assert found == deep.nbytes + models[0].nbytes


@pytest.mark.usefixtures("known_speeds")
def test_memory_depends_on_sources_threads_and_budget_not_on_the_model(models, llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    assert planned([large] * 3).peak_bytes == planned(models).peak_bytes
    assert planned([large] * 4).peak_bytes > planned([large] * 3).peak_bytes
    assert planned(models, n_threads=4).peak_bytes > planned(models).peak_bytes
    small = planned(models, memory_budget=100 * 2**20)
    assert small.peak_bytes <= 100 * 2**20 < planned(models).peak_bytes


@pytest.mark.usefixtures("known_speeds")
def test_whole_tensors_are_in_the_memory_and_refused_where_one_does_not_fit(models, llama_8b):
    method = functools.partial(slerp, t=0.5)
    pair = models[:2]
    working = planned(pair).peak_bytes
    largest = [64 * 16, 64 * 16]  # embedding and head, on two threads
    assert planned(pair, method).peak_bytes == working + sum(4 * 3 * n for n in largest)
    one = planned(pair, method, n_threads=1).peak_bytes
    assert one == planned(pair, n_threads=1).peak_bytes + 4 * 3 * 64 * 16
    large = open_outline(llama_8b, root=llama_8b)
    need = 4 * 3 * 128256 * 4096
    with pytest.raises(ValueError, match=rf"lm_head.weight takes .* \({need} bytes\)"):
        planned([large, large], method)
    plan = planned([large, large], method, memory_budget=2**33)
    assert need < plan.peak_bytes <= plan.memory_budget
    assert "GB" in shown(plan)


def test_the_plan_of_a_method_of_whole_tensors_is_made_within_any_budget(models):
    tight = planned(models[:2], functools.partial(slerp, t=0.5), memory_budget=100 * 2**20)
    assert (tight.memory_budget, tight.n_parameters) == (100 * 2**20, 5968)


@pytest.mark.usefixtures("known_speeds")
def test_a_method_is_tried_with_room_to_hold_only_where_most_of_the_model_would_be_held(
    models, llama_8b, monkeypatch
):
    found, tried = seme.plan.calibrate(), []
    monkeypatch.setattr(
        "seme.plan.calibrate", lambda *_, settings, **__: (tried.append(settings), found)[1]
    )
    large = open_outline(llama_8b, root=llama_8b)
    small_plan, large_plan = planned(models, TIES), planned([large] * 3, TIES)
    budgets = [settings.memory_budget for settings in tried]
    assert budgets[0] == SETTINGS.memory_budget
    room = share_out(budgets[1], 2, SETTINGS.n_threads, torch.device("cpu"))
    assert (budgets[1], room.held_bytes) == (room.working_bytes, 0)
    held = SETTINGS.n_threads * 64 * 16 * held_bytes(2)
    assert small_plan.peak_bytes == planned(models).peak_bytes + held
    assert large_plan.peak_bytes > small_plan.peak_bytes


@pytest.mark.usefixtures("known_speeds")
def test_a_budget_too_small_for_one_block_is_refused_with_what_it_takes(models):
    with pytest.raises(
        ValueError, match=r"at least \d+MiB for 2 sources on 1 threads, got 9MiB"
    ):
        planned(models, memory_budget=9 * 2**20)


@pytest.mark.usefixtures("known_speeds")
def test_a_method_that_rewrites_sources_may_hold_whole_tensors(models):
    seme = functools.partial(seme_merge, **SEME)
    plan = planned(models, seme)
    sizes = {name: math.prod(models[0].shape(name)) for name in models[0].names}
    assert plan.rewritten_bytes == plan.peak_bytes + rewritten_bytes(sizes, 2)
    assert "if sources must be rewritten" in shown(plan)
    assert planned(models).rewritten_bytes is None


@pytest.mark.usefixtures("known_speeds")
def test_a_method_that_compares_heads_holds_matrices_of_their_width(llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    plan = planned([large] * 3, functools.partial(seme_merge, **SEME))
    rows, width = 4 * 4096, 4096
    assert plan.peak_bytes == compared_bytes(rows, width, 2, itemsize=2) > 100 * width**2


def calibrated(method, tmp_path, weights=None):
    return calibrate(
        method,
        n_sources=2,
        dtype=torch.bfloat16,
        settings=SETTINGS,
        weights=weights,
        destination=tmp_path,
    )


def test_calibration_counts_how_often_a_method_reads_its_models(tmp_path):
    once, thrice = calibrated(AVERAGE, tmp_path), calibrated(TIES, tmp_path)
    assert once.passes == 1.0
    assert 2.0 < thrice.passes < 3.3  # a sample, a count, perhaps the ties, and the walk
    assert list(tmp_path.iterdir()) == []
    assert 0 < once.read_bytes_per_second < 1e12
    assert 0 < once.write_bytes_per_second < 1e12


def test_the_time_of_a_parameter_is_that_of_the_difference_of_two_merges(tmp_path, monkeypatch):
    class Report:
        def __init__(self, n):
            self.n_parameters, self.bytes_read = n, 6 * n  # bfloat16, three models

    reports = iter([(1.05, Report(100)), (1.55, Report(1100))])  # 0.5 s more for 1000 more
    monkeypatch.setattr("seme.calibration._merged", lambda *_: next(reports))
    (tmp_path / "w").write_bytes(bytes(1 << 16))
    found = calibrated(AVERAGE, tmp_path, weights=tmp_path / "w")
    assert (found.seconds_per_parameter, found.passes) == (0.0005, 1.0)
    assert found.fixed_seconds == pytest.approx(1.0)


def shown(plan):
    console = Console(width=120, file=io.StringIO())
    console.print(plan_table(plan))
    return console.file.getvalue()


@pytest.mark.usefixtures("known_speeds")
def test_the_table_shows_counts_reasons_and_a_disk_that_is_too_small(models, monkeypatch):
    plan = planned(models, exclude=("*norm*",))
    assert plan.fits_the_disk
    assert "NOT ENOUGH" not in shown(plan)
    usage = type(shutil.disk_usage("/"))(10, 9, 1)
    monkeypatch.setattr("seme.plan.shutil.disk_usage", lambda _: usage)
    text = shown(planned(models, exclude=("*norm*",)))
    assert "5 excluded by *norm*: model.layers.0.input_layernorm.weight" in text
    assert "disk free" in text
    assert "NOT ENOUGH" in text


def test_what_the_merge_would_refuse_the_plan_refuses(models, tmp_path, make_llama):
    with pytest.raises(ValueError, match="already exists"):
        planned(models, destination=tmp_path)
    with pytest.raises(ValueError, match="at least 1 source"):
        planned(models[:1])
    with pytest.raises(ValueError, match=r"no parameter lamb"):
        planned(models, functools.partial(average, weights=None, lamb=1))
    with pytest.raises(ValueError, match="merges exactly 1 source into the pivot, got 2"):
        planned(models, functools.partial(slerp, t=0.5))
    wide = open_checkpoint(make_llama(tmp_path / "w", 5, intermediate_size=32), root=tmp_path)
    with pytest.raises(CheckpointMismatchError, match="does not fit the pivot"):
        planned([models[0], wide])


@pytest.mark.usefixtures("known_speeds")
def test_warnings_reach_the_table(models, tmp_path, make_llama):
    other = make_llama(tmp_path / "t", 5, rope_theta=123.0)
    plan = planned([models[0], open_checkpoint(other, root=tmp_path)])
    assert "rope_theta" in plan.warnings[0]
    assert "rope_theta" in shown(plan)
