"""The trained models of the embedded benchmark, and how models are trained and built."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from eval.zoo.build import build_model
from eval.zoo.cards import data_card, model_card
from eval.zoo.corpus import batches
from eval.zoo.material import ZOO, Material, read_recipe
from eval.zoo.texts import Document, split_of
from eval.zoo.training import fresh_model, save_model, train
from scripts import build_zoo

RECIPE = read_recipe()
MODELS = RECIPE["models"]
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    """The same numbers with and without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def trained(steps, seed=0, learning_rate=0.02):
    """Weights and losses after training on a stream in which every token is the one before + 1."""
    counting = {"a": np.arange(320, dtype=np.uint16) % 32}
    stream = batches(counting, {"a": 1.0}, rows=4, length=16, seed=seed)
    losses = {}
    model = fresh_model(SHAPE, 32, seed)
    train(model, stream, steps=steps, learning_rate=learning_rate, on_step=losses.__setitem__)
    return model.state_dict(), losses


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


MINIATURE = {
    "seed": 1,
    "words": 4,
    "texts": {"english": [{"deb": "pages", "version": "1", "licence": "Free-1"}]},
    "mixes": {"general": {"english": 0.75, "mathematics": 0.25}},
    "tokenizers": {"zoo": {"vocabulary": 270, "mix": "general", "characters": 4000}},
    "shapes": {"tiny": SHAPE},
    "training": {"rows": 2, "length": 8},
    "models": {
        "child": {
            "about": "Expert for numbers.", "start": "base", "mix": "general",
            "domains": ["numbers"], "steps": 3, "learning_rate": 1e-3, "seed": 2,
        },
        "base": {
            "about": "The ancestor.", "tokenizer": "zoo", "shape": "tiny", "mix": "general",
            "steps": 3, "learning_rate": 1e-3, "seed": 1,
        },
    },
}  # fmt: skip


@pytest.fixture
def material(monkeypatch):
    """Pages of every split, each with lines that can be asked for."""
    monkeypatch.setattr("eval.zoo.build._PER_SPLIT", 4)
    monkeypatch.setattr("eval.zoo.material._EXERCISE_DOCUMENTS", 2)
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
    for module in ("scripts.build_zoo", "eval.zoo.schedule"):
        monkeypatch.setattr(f"{module}.read_recipe", lambda: MINIATURE)
        monkeypatch.setattr(f"{module}.read_material", lambda _: material)
    manager = nullcontext(SimpleNamespace(Queue=SimpleQueue))
    context = SimpleNamespace(Manager=lambda: manager)
    monkeypatch.setattr("eval.zoo.schedule.multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(
        "eval.zoo.schedule.ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1)
    )
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("eval.zoo.schedule._REPORT_EVERY", 1)
    monkeypatch.setattr("eval.zoo.schedule._LINE_EVERY", 1)

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


# From here on: the models as they are committed.


def weights_of(folder):
    """Every tensor of a model by its name."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def file_of(name, file="tokenizer.json"):
    """The bytes of a file of a model."""
    return (ZOO / "models" / name / file).read_bytes()


def test_there_is_a_folder_for_every_model_of_the_recipe_and_no_other():
    found = {p.name for p in (ZOO / "models").iterdir() if not p.name.startswith(".")}
    assert found == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loads_with_every_weight_in_its_place(name):
    model, info = LlamaForCausalLM.from_pretrained(
        ZOO / "models" / name, dtype="auto", output_loading_info=True
    )
    assert {kind: list(keys) for kind, keys in info.items() if keys} == {}
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.isfinite(model(input_ids=tokens).logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_shape_the_recipe_says_in_bfloat16(name):
    ancestor = MODELS[MODELS[name].get("start", name)]
    shape = RECIPE["shapes"][ancestor["shape"]]
    vocabulary = RECIPE["tokenizers"][ancestor["tokenizer"]]["vocabulary"]
    config = json.loads((ZOO / "models" / name / "config.json").read_text("utf-8"))
    assert {key: config[key] for key in shape} == shape
    assert config["vocab_size"] == vocabulary >= 4 * shape["hidden_size"]
    tensors = weights_of(ZOO / "models" / name)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["lm_head.weight"].shape == (vocabulary, shape["hidden_size"])
    assert len(tensors) == 9 * shape["num_hidden_layers"] + 3


@pytest.mark.parametrize("name", MODELS)
def test_a_models_tokenizer_has_a_token_for_every_row_of_the_embedding(name):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ZOO / "models" / name)
    assert len(tokenizer) == weights_of(ZOO / "models" / name)["lm_head.weight"].shape[0]
    assert tokenizer.tokenize("12 + 34")[:2] == ["1", "2"]
    assert tokenizer.eos_token_id == 0


@pytest.mark.parametrize("name", [name for name, plan in MODELS.items() if "start" in plan])
def test_an_expert_stays_near_the_base_and_has_its_tokenizer_to_the_byte(name):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert file_of(name, file) == file_of("base", file)
    assert 0.9 < cosine("base", name) < 1


def cosine(first, second):
    """Cosine between the weights of two models of one shape, norms left out."""
    one, two = (weights_of(ZOO / "models" / name) for name in (first, second))
    flat = [
        torch.cat([w[n].double().flatten() for n in one if w[n].dim() == 2]) for w in (one, two)
    ]
    return torch.cosine_similarity(*flat, dim=0).item()


def test_the_independent_model_shares_the_bases_tokenizer_and_nothing_of_its_weights():
    assert file_of("independent") == file_of("base")
    assert abs(cosine("base", "independent")) < 0.1


def test_the_small_model_is_narrower_and_shallower_with_the_bases_tokenizer():
    small, base = (json.loads(file_of(n, "config.json")) for n in ("small", "base"))
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"):
        assert small[key] < base[key]
    assert file_of("small") == file_of("base")


def test_the_foreign_tokenizer_knows_most_but_not_all_of_the_bases_tokens():
    base, foreign = (
        set(json.loads(file_of(name))["model"]["vocab"]) for name in ("base", "foreign")
    )
    assert 0.4 < len(base & foreign) / len(base) < 0.95


@pytest.mark.parametrize("name", MODELS)
def test_a_models_card_is_what_the_recipe_says_now(name):
    card = (ZOO / "models" / name / "README.md").read_text("utf-8")
    assert card == model_card(name, RECIPE)
    for packages in RECIPE["texts"].values():
        assert all(package["licence"] in card for package in packages)


def test_the_data_card_names_every_package_its_version_and_its_licence():
    card = (ZOO / "DATA_CARD.md").read_text("utf-8")
    for domain, packages in RECIPE["texts"].items():
        for package in packages:
            name = f"{package.get('deb') or package.get('wheel')} {package['version']}"
            rows = [
                row for row in card.splitlines() if row.startswith(f"| {domain} | {name} |")
            ]
            assert len(rows) == 1
            assert rows[0].endswith(f"| {package['licence']} |")


def test_a_data_card_counts_documents_and_characters_of_each_split(material):
    card = data_card(MINIATURE, material)
    sizes = dict.fromkeys(("train", "validation", "test"), 0)
    for page in material.documents["english"]:
        sizes[page.split] += 1
    expected = " | ".join(f"{n} / 0.0 M" for n in sizes.values())
    assert f"| english | {expected} |" in card


def test_a_model_card_tells_the_start_and_the_shares_of_the_mix():
    card = model_card("child", MINIATURE)
    assert "fine-tuned from `base`: 3 steps of 2\nwindows of 8 tokens" in card
    assert "| english | 37.5% |\n| mathematics | 12.5% |\n| numbers | 50.0% |\n" in card
    assert "Their licences: Free-1." in card
    assert "trained from scratch" in model_card("base", MINIATURE)


def test_the_whole_benchmark_takes_at_most_32_megabytes():
    files = [p for p in ZOO.rglob("*") if p.is_file()]
    visible = [p for p in files if not {".cache", "__pycache__"} & set(p.parts)]
    assert sum(p.stat().st_size for p in visible) <= 32_000_000
