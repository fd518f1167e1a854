"""The trained models of the embedded benchmark, and how models are trained and built."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlamaForCausalLM

from scripts import build_zoo
from scripts.zoo.build import build_model
from scripts.zoo.material import Material, data_card
from scripts.zoo.texts import Document, split_of
from scripts.zoo.training import batches, fresh_model, save_model, train
from tests.zoo_models import MINIATURE, SHAPE, trained, weights_of


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    """The same numbers with and without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_thirty_steps_teach_a_model_to_count():
    _, losses = trained(30)
    assert list(losses) == list(range(1, 31))
    assert losses[1] == pytest.approx(np.log(32), abs=0.15)
    assert losses[30] < 1.5


def test_the_same_seed_trains_the_same_weights_and_another_seed_others():
    first, again, other = trained(3)[0], trained(3)[0], trained(3, seed=1)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_rate_is_never_zero_before_the_last_step_and_is_zero_there():
    model, after = fresh_model(SHAPE, 32, 0), []
    before = model.lm_head.weight.detach().clone()
    train(
        model,
        batches(
            {"a": np.arange(320, dtype=np.uint16) % 32}, {"a": 1}, rows=4, length=16, seed=0
        ),
        steps=2,
        learning_rate=0.02,
        on_step=lambda *_: after.append(model.lm_head.weight.detach().clone()),
    )
    assert not torch.equal(before, after[0])
    assert torch.equal(after[0], after[1])


def test_a_fresh_model_has_the_shape_it_is_given_and_embeddings_of_its_own():
    model = fresh_model(SHAPE, 40, 0)
    assert model.lm_head.weight.shape == (40, 16)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.num_hidden_layers == 1


def test_a_saved_model_is_bfloat16_and_reads_back_rounded(tmp_path):
    model = fresh_model(SHAPE, 40, 0)
    expected = model.lm_head.weight.detach().clone().bfloat16()
    save_model(model, tmp_path)
    read = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert read.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(read.lm_head.weight, expected)


@pytest.fixture
def material(monkeypatch):
    """Pages of every split, each with lines that can be asked for."""
    monkeypatch.setattr("scripts.zoo.build._PER_SPLIT", 4)
    monkeypatch.setattr("scripts.zoo.material._EXERCISE_DOCUMENTS", 2)
    pages = [
        Document(domain="english", key=str(n), text="\n".join(f"the line {i} of page {n} ".ljust(24 + i, "x") for i in range(9)))
        for n in range(60)
    ]  # fmt: skip
    assert {split_of(str(n)) for n in range(60)} == {"train", "validation", "test"}
    return Material(documents={"english": pages}, words=list("abcdefgh"), seed=1)


def built(name, material, folder):
    steps = []
    build_model(name, MINIATURE, material, folder, lambda step, _: steps.append(step))
    return steps


def test_a_model_is_built_whole_from_the_one_it_starts_from(material, tmp_path):
    assert built("base", material, tmp_path) == built("child", material, tmp_path) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "child"]
    base, child = (weights_of(tmp_path / name) for name in ("base", "child"))
    assert base.keys() == child.keys()
    moved = [(child[name].float() - base[name].float()).abs().max().item() for name in base]
    assert 0 < max(moved) < 0.01  # two steps of at most 1e-3, rounded to bfloat16


def test_building_again_gives_the_same_bytes_and_leaves_nothing_else(material, tmp_path):
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        (folder / ".base.part").mkdir()  # left by a build that was stopped
        built("base", material, folder)
    for path in (tmp_path / "1" / "base").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / "base" / path.name).read_bytes()
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["base"]


def test_a_child_has_its_parents_tokenizer_to_the_byte(material, tmp_path):
    built("base", material, tmp_path)
    built("child", material, tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "base" / file).read_bytes() == (
            tmp_path / "child" / file
        ).read_bytes()


def test_a_model_whose_parent_is_missing_is_not_built(material, tmp_path):
    with pytest.raises(OSError, match="base"):
        built("child", material, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def build_here(material, tmp_path, monkeypatch):
    """``build_here()`` builds the miniature as the script does, in threads; gives what it says."""
    for module in ("scripts.build_zoo", "scripts.zoo.build"):
        monkeypatch.setattr(f"{module}.read_recipe", lambda: MINIATURE)
        monkeypatch.setattr(f"{module}.read_material", lambda _: material)
    manager = nullcontext(SimpleNamespace(Queue=SimpleQueue))
    context = SimpleNamespace(Manager=lambda: manager)
    monkeypatch.setattr("scripts.zoo.build.multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(
        "scripts.zoo.build.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1)
    )
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("scripts.zoo.build._REPORT_EVERY", 1)
    monkeypatch.setattr("scripts.zoo.build._LINE_EVERY", 1)

    def build(*, force=False):
        said = io.StringIO()
        build_zoo.build(tmp_path, Console(file=said, width=120), force=force)
        return said.getvalue()

    return build


def test_the_script_builds_everything_each_model_after_its_start(build_here, tmp_path):
    said = build_here()
    assert said.index("trained base") < said.index("child: step 1, loss ")
    assert all(f"{n}: step {k}, loss " in said for n in ("base", "child") for k in (1, 2, 3))
    assert "wrote 40 items for 5 tasks" in said  # 4 test and 4 validation items a task
    written = {path.stem for path in (tmp_path / "tasks").glob("*.jsonl")}
    exercises = {"numbers_bits", "numbers_answer", "format_bits", "format_answer"}
    assert written == {"english_bits"} | exercises
    assert (
        "| english | pages 1 | Debian 12 | Free-1 |" in (tmp_path / "DATA_CARD.md").read_text()
    )


def test_a_finished_model_is_not_trained_again_unless_forced(build_here, tmp_path):
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
    assert build_here(force=True).count("trained") == 2
    assert times()["base"] > first["base"]


def test_a_data_card_counts_documents_and_characters_of_each_split(material):
    card = data_card(MINIATURE, material)
    sizes = dict.fromkeys(("train", "validation", "test"), 0)
    for page in material.documents["english"]:
        sizes[page.split] += 1
    expected = " | ".join(f"{n} / 0.0 M" for n in sizes.values())
    assert f"| english | {expected} |" in card
