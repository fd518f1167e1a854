"""Models and items built from a miniature recipe."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from scripts.zoo.adapters import adapter_card, adapter_plans, build_adapter
from scripts.zoo.build import build, build_model
from seme.checkpoint.lora import open_adapter
from tests.zoo_models import MINIATURE, english_material, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
"""PEFT asks transformers by an old name whether gradients are checkpointed."""


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    """The same numbers with and without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def material(monkeypatch):
    """Pages of every split, each with lines that can be asked for."""
    monkeypatch.setattr("scripts.zoo.build._PER_SPLIT", 4)
    monkeypatch.setattr("scripts.zoo.material._EXERCISE_DOCUMENTS", 2)
    return english_material()


def built(name, material, folder):
    steps = []
    build_model(name, MINIATURE, material, folder, lambda step, _: steps.append(step))
    return steps


def test_child_model_is_trained_from_its_parent(material, tmp_path):
    assert built("base", material, tmp_path) == built("child", material, tmp_path) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "child"]
    base, child = (weights_of(tmp_path / name) for name in ("base", "child"))
    assert base.keys() == child.keys()
    moved = [(child[name].float() - base[name].float()).abs().max().item() for name in base]
    assert 0 < max(moved) < 0.01  # two steps of at most 1e-3, rounded to bfloat16


def test_adapter_holds_the_factors_alone_and_fits_the_model_it_was_trained_from(
    material, tmp_path
):
    (tmp_path / "models").mkdir()
    built("base", material, tmp_path / "models")
    steps = []
    build_adapter("tuned_0", MINIATURE, material, tmp_path, lambda step, _: steps.append(step))
    assert steps == [1, 2, 3]
    folder = tmp_path / "adapters" / "tuned_0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    base = tmp_path / "models" / "base"
    adapter, plain = open_adapter(folder, base=base, root=tmp_path), weights_of(base)
    changed = {n for n in plain if not torch.equal(adapter.read(n).float(), plain[n].float())}
    assert changed == {
        "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight",
    }  # fmt: skip


def test_adapters_have_a_plan_for_each_training_seed():
    experts = {"a": {"start": "base", "seeds": [7, 8]}}
    assert adapter_plans({"adapters": {"experts": experts}}) == {
        "a_0": {"start": "base", "seed": 7}, "a_1": {"start": "base", "seed": 8},
    }  # fmt: skip
    assert adapter_plans({}) == {}
    assert "A LoRA adapter of `base`, rank 2" in adapter_card("tuned_0", MINIATURE)


def test_build_is_reproducible_and_cleans_up(material, tmp_path):
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        (folder / ".base.part").mkdir()  # left by a build that was stopped
        built("base", material, folder)
    for path in (tmp_path / "1" / "base").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / "base" / path.name).read_bytes()
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["base"]


def test_child_has_the_tokenizer_files_of_its_parent(material, tmp_path):
    built("base", material, tmp_path)
    built("child", material, tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "base" / file).read_bytes() == (
            tmp_path / "child" / file
        ).read_bytes()


def test_model_without_its_parent_is_not_built(material, tmp_path):
    with pytest.raises(OSError, match="base"):
        built("child", material, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def build_here(material, tmp_path, monkeypatch):
    """``build_here()`` builds the miniature as the script, in threads; returns its output."""
    monkeypatch.setattr("scripts.zoo.build.read_recipe", lambda: MINIATURE)
    monkeypatch.setattr("scripts.zoo.build.read_material", lambda _: material)
    manager = nullcontext(SimpleNamespace(Queue=SimpleQueue))
    context = SimpleNamespace(Manager=lambda: manager)
    monkeypatch.setattr("scripts.zoo.build.multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(
        "scripts.zoo.build.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1)
    )
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("scripts.zoo.build._REPORT_EVERY", 1)
    monkeypatch.setattr("scripts.zoo.build._LINE_EVERY", 1)

    def build_miniature(*, force=False):
        output = io.StringIO()
        build(tmp_path, Console(file=output, width=120), force=force)
        return output.getvalue()

    return build_miniature


def test_script_builds_models_in_dependency_order(build_here, tmp_path):
    output = build_here()
    assert output.index("trained base") < output.index("child: step 1, loss ")
    assert all(f"{n}: step {k}, loss " in output for n in ("base", "child") for k in (1, 2, 3))
    assert "wrote 40 items for 5 tasks" in output  # 4 test and 4 validation items a task
    written = {path.stem for path in (tmp_path / "tasks").glob("*.jsonl")}
    exercises = {"numbers_bits", "numbers_answer", "format_bits", "format_answer"}
    assert written == {"english_bits"} | exercises
    assert (
        "| english | pages 1 | Debian 12 | Free-1 |" in (tmp_path / "DATA_CARD.md").read_text()
    )


def test_finished_model_is_retrained_only_with_force(build_here, tmp_path):
    def times():
        return {n: (tmp_path / "models" / n).stat().st_ctime_ns for n in ("base", "child")}

    build_here()
    first = times()
    assert "trained" not in build_here()
    assert times() == first
    (tmp_path / "models" / "child" / "config.json").unlink()
    assert "trained base" not in build_here()
    second = times()
    assert second["base"] == first["base"]
    assert second["child"] > first["child"]
    assert build_here(force=True).count("trained") == 3  # two models, an adapter
    assert times()["base"] > first["base"]
