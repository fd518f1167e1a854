"""Merge plans: counts equal to the merge's, from headers or from config and index alone."""

import functools
import json
import math
import re
import shutil
from dataclasses import replace
from unittest.mock import ANY

import pytest
import torch
from safetensors.torch import load_file

from baselines.average import merge as average
from baselines.ties import merge as ties
from baselines.tsv_m import merge as tsv_m
from seme.budget import allocate, cached_bytes, compared_bytes, rewritten_bytes
from seme.checkpoint.opening import open_model
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.interface import CheckpointMismatchError
from seme.method import merge as seme_merge
from seme.outline import _specs_of_architecture, open_outline
from seme.overrides import parse_overrides
from seme.plan import bytes_of_walk, plan_merge, plan_table
from tests.gguf_files import write_gguf
from tests.seme_merges import SETTINGS as SEME
from tests.settings import SETTINGS
from tests.tiny_models import save_tiny

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


def planned(models, method=AVERAGE, *, destination=None, **options):
    where = destination or models[0].path.parent / "new" / "merged"
    settings = replace(SETTINGS, **options)
    return plan_merge(method, models[0], models[1:], where, settings=settings)


def test_eight_billion_parameter_model_is_planned_without_shards(llama_8b):
    model = open_outline(llama_8b, root=llama_8b)
    plan = planned([model, model, model])
    assert (len(plan.merged), plan.n_parameters) == (291, 8_030_261_248)
    assert plan.written_bytes == 16_060_522_496  # what the published index states
    assert plan.read_bytes == 3 * 16_060_522_496


def test_outline_of_a_folder_with_shards_is_the_checkpoint(models, monkeypatch):
    monkeypatch.setattr("seme.outline._specs_of_architecture", lambda _: pytest.fail("called"))
    outline = open_outline(models[0].path, root=models[0].path)
    assert [outline.spec(n) for n in outline.names] == [
        models[0].spec(n) for n in outline.names
    ]


def test_outline_shapes_equal_those_on_disk(models, tmp_path):
    config = json.loads((models[0].path / "config.json").read_text())
    outline = open_outline(
        outline_folder(tmp_path / "o", config, models[0].names), root=tmp_path
    )
    assert {n: outline.spec(n) for n in outline.names} == {
        n: models[0].spec(n) for n in models[0].names
    }


def test_tied_head_is_not_in_the_outline(tmp_path, models):
    config = json.loads((models[0].path / "config.json").read_text())
    tied = outline_folder(
        tmp_path / "o", {**config, "tie_word_embeddings": True}, models[0].names
    )
    assert "lm_head.weight" not in open_outline(tied, root=tmp_path).names


def test_tensor_of_unknown_shape_is_refused(tmp_path, models):
    config = json.loads((models[0].path / "config.json").read_text())
    folder = outline_folder(tmp_path / "o", config, ["model.norm.weight", "odd.weight"])
    with pytest.raises(ValueError, match=r"shapes of 1 tensors do not follow .* odd.weight"):
        open_outline(folder, root=tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_planned_bytes_equal_the_merge_report(models, tmp_path, dtype):
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


def test_copied_tensors_count_the_pivot_only(models):
    plan = planned(models, exclude=("*norm*",))
    norms = 5 * 16 * 2
    assert plan.copied["model.norm.weight"] == "excluded by *norm*"
    assert plan.read_bytes == 3 * models[0].nbytes - 2 * norms


def test_realigned_source_is_counted_in_full(models, tmp_path, make_llama):
    deep = open_checkpoint(make_llama(tmp_path / "d", 5, num_hidden_layers=3), root=tmp_path)
    n_bytes = bytes_of_walk(models[0], [deep], models[0].names, {})
    assert n_bytes == models[0].nbytes + sum(deep.spec(name).nbytes for name in models[0].names)
    n_bytes = bytes_of_walk(deep, [models[0]], deep.names, {})
    assert n_bytes == deep.nbytes + models[0].nbytes


def test_planned_memory_depends_on_sources_threads_and_budget(models, llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    whole = planned([large] * 3)
    assert planned(models).peak_bytes < whole.peak_bytes
    assert planned([large] * 4).peak_bytes > whole.peak_bytes
    assert planned([large] * 3, n_threads=4).peak_bytes > whole.peak_bytes
    small = planned([large] * 3, memory_budget=40 * 2**20)
    assert small.peak_bytes <= 40 * 2**20 < whole.peak_bytes


def test_ranking_method_plans_a_score_cache_per_thread(models, llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    average_plan, ties_plan = planned(models), planned(models, TIES)
    cached = SETTINGS.n_threads * 64 * 16 * cached_bytes(2)
    counted = 2 * 16 * sum(math.prod(models[0].shape(name)) for name in models[0].names)
    assert ties_plan.peak_bytes == average_plan.peak_bytes + cached + counted
    assert (average_plan.is_prepared, ties_plan.is_prepared) == (False, True)
    allocation = allocate(SETTINGS.memory_budget, 2, SETTINGS.n_threads, torch.device("cpu"))
    large_plan = planned([large] * 3, TIES)
    assert large_plan.peak_bytes == allocation.working_bytes + allocation.cache_bytes


def test_only_tensors_needed_whole_are_planned_whole(llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    mean, matrix = (
        functools.partial(tsv_m, lam=1.0, vocabulary=vocabulary)
        for vocabulary in ("mean", "matrix")
    )
    mlp, head = 14336 * 4096, 128256 * 4096
    of_mlp = planned([large] * 3, mean, n_threads=1, memory_budget=100 * 2**30).peak_bytes
    of_head = planned([large] * 3, matrix, n_threads=1, memory_budget=100 * 2**30).peak_bytes
    per_element = (of_head - of_mlp) / (head - mlp)
    assert per_element == 4 * (2 + 2 + 24 + 2 * 2)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.down_proj\.weight takes"):
        planned([large] * 3, mean, memory_budget=2**30)
    with pytest.raises(ValueError, match=r"lm_head\.weight takes"):
        planned([large] * 3, matrix, memory_budget=2**30)


def test_too_small_budget_is_refused_with_the_bytes_needed(models):
    with pytest.raises(ValueError, match=r"\d+MiB for 2 sources on 1 threads, got 9MiB"):
        planned(models, memory_budget=9 * 2**20)


def test_seme_plan_includes_memory_for_realignment(models):
    seme = functools.partial(seme_merge, **SEME)
    plan = planned(models, seme)
    sizes = {name: math.prod(models[0].shape(name)) for name in models[0].names}
    assert plan.rewritten_bytes == plan.peak_bytes + rewritten_bytes(sizes, 2)
    sizes = re.findall(r"\+(\d+\.\d+ [GM]B)", rows_of(plan)["peak memory"])
    assert len(sizes) == 2
    assert planned(models).rewritten_bytes is None


def test_seme_plan_includes_memory_for_head_comparison(llama_8b):
    large = open_outline(llama_8b, root=llama_8b)
    plan = planned([large] * 3, functools.partial(seme_merge, **SEME))
    n_rows, width = 4 * 4096, 4096
    assert plan.peak_bytes == compared_bytes(n_rows, width, 2, itemsize=2) > 100 * width**2


def rows_of(plan):
    """First column to second."""
    table = plan_table(plan, memory_budget="3.5GB")
    return dict(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_plan_table_has_copied_tensors_and_disk_warning(models, monkeypatch):
    plan = planned(models, exclude=("*norm*",))
    assert plan.fits_the_disk
    assert "NOT ENOUGH" not in rows_of(plan)["disk free"]
    usage = type(shutil.disk_usage("/"))(10, 9, 1)
    monkeypatch.setattr("seme.plan.shutil.disk_usage", lambda _: usage)
    rows = rows_of(planned(models, exclude=("*norm*",)))
    assert rows["copied"].startswith(
        "5 excluded by *norm*: model.layers.0.input_layernorm.weight"
    )
    assert "NOT ENOUGH" in rows["disk free"]


def test_plan_table_has_the_budget_as_typed(models):
    plan = planned(models)
    assert rows_of(plan)["peak memory"] == (
        f"+{plan.peak_bytes / 1e9:.2f} GB over the Python process (budget 3.5GB)"
    )


def test_plan_refuses_what_the_merge_refuses(models, tmp_path, make_llama):
    with pytest.raises(ValueError, match="already exists"):
        planned(models, destination=tmp_path)
    with pytest.raises(ValueError, match="at least 1 source"):
        planned(models[:1])
    with pytest.raises(ValueError, match=r"no parameter lamb"):
        planned(models, functools.partial(average, weights=None, lamb=1))
    wide = open_checkpoint(make_llama(tmp_path / "w", 5, intermediate_size=32), root=tmp_path)
    with pytest.raises(CheckpointMismatchError, match="does not fit the pivot"):
        planned([models[0], wide])


def test_plan_table_has_warnings(models, tmp_path, make_llama):
    other = make_llama(tmp_path / "t", 5, rope_theta=123.0)
    plan = planned([models[0], open_checkpoint(other, root=tmp_path)])
    assert "rope_theta" in plan.warnings[0]
    assert rows_of(plan)["warning"] == plan.warnings[0]


@pytest.fixture
def folder(make_llama, tmp_path):
    """A sharded model without its shards, next to one with them."""
    whole = make_llama(tmp_path / "whole", 0)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((whole / "config.json").read_bytes())
    names = ["model.norm.weight", "lm_head.weight"]
    write_index(bare, dict.fromkeys(names, "model-1.safetensors"))
    return bare


def write_index(folder, placed):
    text = json.dumps({"weight_map": placed})
    (folder / "model.safetensors.index.json").write_text(text)


def rewrite(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def record_hub_requests(monkeypatch, *snapshots):
    """Let the Hub deliver one folder after the other; return the patterns requested of it."""
    requests, left = [], iter(snapshots)

    def fetch(_hub_id, **options):
        requests.append(options["allow_patterns"])
        return str(next(left))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("seme.checkpoint.hub.hub_answers", lambda: True)
    return requests


def test_outline_of_a_sharded_hub_model_fetches_no_shards(folder, tmp_path, monkeypatch):
    requests = record_hub_requests(monkeypatch, folder)
    outline = open_outline("org/name", revision="v1", root=tmp_path)
    assert (outline.shape("lm_head.weight"), outline.commit) == ((64, 16), "bare")
    assert ["*.safetensors" in patterns for patterns in requests] == [False]


def test_outline_of_a_single_file_hub_model_fetches_no_weights(folder, tmp_path, monkeypatch):
    (folder / "model.safetensors.index.json").unlink()
    requests = record_hub_requests(monkeypatch, folder)
    whole = open_checkpoint(tmp_path / "whole", root=tmp_path)
    outline = open_outline("org/name", root=tmp_path)
    assert {n: outline.spec(n) for n in outline.names} == {
        n: whole.spec(n) for n in whole.names
    }
    assert ["*.safetensors" in patterns for patterns in requests] == [False]


def test_local_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        open_outline(folder, root=folder)


def test_pickled_weights_on_the_hub_are_in_the_plan(folder, tmp_path, monkeypatch):
    names = ["model.norm.weight", "lm_head.weight"]
    write_index(folder, dict.fromkeys(names, "pytorch_model-1.bin"))
    (folder / "model.safetensors.index.json").rename(folder / "pytorch_model.bin.index.json")
    record_hub_requests(monkeypatch, folder)
    outline = open_outline("org/name", root=tmp_path)
    plan = planned([outline, outline], destination=tmp_path / "new")
    assert [line.partition(" has pickled")[0] for line in plan.warnings] == [str(folder)] * 2


def test_embedding_rows_are_in_the_plan(models, tmp_path, make_llama):
    padded = open_checkpoint(make_llama(tmp_path / "p", 5, vocab_size=72), root=tmp_path)
    with pytest.raises(CheckpointMismatchError, match="tokenizers cannot be compared"):
        planned([models[0], padded])
    plan = planned([models[0], padded], exclude=("*embed_tokens*", "lm_head*"))
    assert len(plan.warnings) == 2
    assert "72 rows, the pivot 64" in plan.warnings[0]


def test_head_tied_by_default_is_not_in_the_outline(folder, monkeypatch):
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    write_index(folder, dict.fromkeys(names, "model-1.safetensors"))
    text = (
        (folder / "config.json").read_text().replace('"tie_word_embeddings": false', '"_": 0')
    )
    (folder / "config.json").write_text(text)
    assert "lm_head.weight" in open_outline(folder, root=folder).names  # a llama says no
    known = _specs_of_architecture(folder)
    monkeypatch.setattr("seme.outline._specs_of_architecture", lambda _: known)
    rewrite(folder, model_type="gemma")
    assert open_outline(folder, root=folder).names == tuple(sorted(names)[1:])


def test_quantised_model_is_refused_before_shapes_are_computed(folder, monkeypatch):
    monkeypatch.setattr("seme.outline._specs_of_architecture", lambda _: pytest.fail("called"))
    rewrite(folder, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(ValueError, match=r"is quantised: its config\.json .*mxfp4"):
        open_outline(folder, root=folder)


def test_malformed_index_is_refused(folder):
    write_index(folder, {"lm_head.weight": "../model-1.safetensors"})
    with pytest.raises(ValueError, match="index paths are confined"):
        open_outline(folder, root=folder)
    write_index(folder, [])
    with pytest.raises(ValueError, match=r"index\.json must map tensor names to files"):
        open_outline(folder, root=folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json cannot be parsed"):
        open_outline(folder, root=folder)


def test_gguf_model_is_planned_from_its_header(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SEME_CACHE_DIR", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    with caplog.at_level("INFO", logger="seme"):
        outline = open_outline(path, root=tmp_path)
    assert not outline.path.exists()
    assert f"will first be converted to 0.11 MB in {outline.path}" in caplog.text
    plan = plan_merge(TIES, outline, [outline], tmp_path / "merged", settings=SETTINGS)
    converted = open_model(path, root=tmp_path)
    assert plan_merge(
        TIES, converted, [converted], tmp_path / "merged", settings=SETTINGS
    ) == replace(plan, free_bytes=ANY)
    assert open_outline(path, root=tmp_path).stores("lm_head.weight") is False


def test_plan_says_which_values_overrides_give_and_checks_them(models):
    overrides = parse_overrides([{"match": "*.mlp.*", "density": 0.4}])
    plan = planned(models, TIES, overrides=overrides)
    assert plan.overridden == ("6 tensors: density=0.4",)
    assert rows_of(plan)["overrides"] == "6 tensors: density=0.4"
    assert planned(models, TIES).overridden == ()
    with pytest.raises(ValueError, match="another value: density must be in"):
        planned(models, TIES, overrides=parse_overrides([{"density": 4}]))


def test_seme_source_of_another_kind_is_refused(tmp_path):
    pivot, source = (
        open_checkpoint(save_tiny(tmp_path / kind, kind), root=tmp_path)
        for kind in ("llama", "olmo2")
    )
    method = functools.partial(seme_merge, **SEME)
    with pytest.raises(CheckpointMismatchError, match=r"^source 0 .*norms per block"):
        plan_merge(method, pivot, [source], tmp_path / "merged", settings=SETTINGS)
