"""Sources with a base of their own: task vectors moved to another pivot."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import average, task_arithmetic
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.interface import CheckpointMismatchError
from seme.method import merge as seme_merge
from seme.plan import plan_merge
from tests.adapters import pair, write_adapter
from tests.conftest import TINY
from tests.disguise import disguised, folded
from tests.seme_merges import change_tensors, settings_with, tensors_of
from tests.settings import SETTINGS

ADD = functools.partial(task_arithmetic.merge, lam=1.0, weights=None)
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def zoo(make_llama, tmp_path_factory):
    """A pivot, an unrelated base, and an expert of that base."""
    folder = tmp_path_factory.mktemp("zoo")
    pivot, base = (make_llama(folder / name, i) for i, name in enumerate(("pivot", "base")))
    return {"pivot": pivot, "base": base, "expert": tuned(base, folder / "expert")}


def tuned(base, folder, *, seed=9, size=0.01):
    """Write a model that differs from another by small random changes of its matrices."""
    rng = torch.Generator().manual_seed(seed)
    folder.mkdir()
    for file in base.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = {
        name: tensor + size * torch.randn(tensor.shape, generator=rng) * (tensor.dim() == 2)
        for name, tensor in tensors_of(base).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def opened(folder):
    return open_checkpoint(folder, root=folder)


def moved(destination, method, pivot, source, base, **changed):
    """Merge one source with a base of its own; return the tensors and the report."""
    source = opened(source) if not hasattr(source, "names") else source
    report = merge_checkpoints(
        method,
        opened(pivot),
        [source],
        destination,
        settings=replace(SETTINGS, **changed),
        progress=False,
        bases=[opened(base)],
    )
    return load_file(destination / "model.safetensors"), report


def test_element_by_element_the_source_is_the_pivot_plus_what_its_training_changed(
    model, tmp_path
):
    pivot = model("pivot", {"w": [1.0, 2.0, 3.0]})
    base, expert = (
        model("base", {"w": [5.0, 5.0, 5.0]}),
        model("expert", {"w": [5.5, 5.0, 1.0]}),
    )
    merged, _ = moved(tmp_path / "merged", ADD, pivot.path, expert, base.path)
    assert merged["w"].tolist() == [1.5, 2.0, -1.0]


def test_sources_with_and_without_a_base_are_merged_together(model, tmp_path):
    models = {"pivot": 1.0, "base": 5.0, "expert": 6.0, "plain": 3.0}
    pivot, base, expert, plain = (model(n, {"w": [v, v]}) for n, v in models.items())
    mean = functools.partial(average.merge, weights=None)  # of 1 + (6 - 5) and 3
    merge_checkpoints(
        mean, pivot, [expert, plain], tmp_path / "merged",
        settings=SETTINGS, progress=False, bases=[base, None],
    )  # fmt: skip
    assert tensors_of(tmp_path / "merged")["w"].tolist() == [2.5, 2.5]


def test_the_difference_is_not_rounded_to_the_dtype_on_disk(model, tmp_path):
    half = {"dtype": torch.bfloat16}
    pivot = model("pivot", {"w": torch.tensor([0.0])})
    base = model("base", {"w": torch.tensor([1.0], **half)})
    expert = model("expert", {"w": torch.tensor([1.0078125], **half)})  # the next bfloat16
    merged, _ = moved(tmp_path / "merged", ADD, pivot.path, expert, base.path)
    assert merged["w"].tolist() == [0.0078125]


def test_seme_in_the_pivots_frame_moves_it_element_by_element(zoo, tmp_path):
    method = functools.partial(seme_merge, **settings_with())
    near = tuned(zoo["base"], tmp_path / "near", seed=3, size=0.001)
    merged, report = moved(tmp_path / "merged", method, near, zoo["expert"], zoo["base"])
    pivot, base, expert = map(tensors_of, (near, zoo["base"], zoo["expert"]))
    assert report.diagnostics["sources"][0]["identity_shortcut"]
    assert all(torch.equal(merged[n], pivot[n] + (expert[n] - base[n])) for n in pivot)


def test_seme_finds_the_frame_from_the_base_and_applies_it_to_the_expert(zoo, tmp_path):
    # pivot and base are one model, which only looks different: moved, the expert is the expert
    base = disguised(zoo["base"], tmp_path / "base")
    expert = disguised(zoo["expert"], tmp_path / "expert")
    method = functools.partial(seme_merge, **settings_with())
    merged, report = moved(tmp_path / "merged", method, zoo["base"], expert, base)
    assert not report.diagnostics["sources"][0]["identity_shortcut"]
    wanted, pivot = folded(zoo["expert"]), folded(zoo["base"])
    for name in wanted.names:
        torch.testing.assert_close(merged[name], wanted.read(name), atol=2e-5, rtol=0)
    change = wanted.read(NAME) - pivot.read(NAME)
    assert float(change.abs().max()) > 0.01


def test_an_unrelated_base_leaves_the_pivot_all_but_the_change(zoo, tmp_path):
    # T is orthogonal and units are matched one to one: the change keeps its length
    method = functools.partial(seme_merge, **settings_with())
    merged, _ = moved(tmp_path / "merged", method, zoo["pivot"], zoo["expert"], zoo["base"])
    pivot, base, expert = (folded(zoo[name]) for name in ("pivot", "base", "expert"))
    for name in (NAME, "lm_head.weight"):
        arrived = torch.linalg.norm(merged[name] - pivot.read(name))
        left = torch.linalg.norm(expert.read(name) - base.read(name))
        assert float(arrived) == pytest.approx(float(left), rel=1e-3)


def test_shuffled_task_vectors_have_the_elements_in_another_order(zoo, tmp_path):
    plain, shuffled, again, other = (
        moved(
            tmp_path / str(i),
            functools.partial(seme_merge, **settings),
            zoo["pivot"], zoo["expert"], zoo["base"], seed=seed,
        )[0][NAME] - folded(zoo["pivot"]).read(NAME)
        for i, (settings, seed) in enumerate(
            [(settings_with(), 0), (shuffling(), 0), (shuffling(), 0), (shuffling(), 1)]
        )
    )  # fmt: skip
    assert torch.equal(shuffled, again)
    assert not torch.equal(shuffled, other)
    assert float((plain - shuffled).abs().max()) > 0.01
    ordered = [change.flatten().sort().values for change in (plain, shuffled)]
    torch.testing.assert_close(*ordered, atol=1e-6, rtol=0)


def shuffling():
    settings = settings_with()
    return {**settings, "alignment": settings["alignment"] | {"shuffle_task_vectors": True}}


def test_shuffling_is_refused_without_a_base(zoo, tmp_path):
    with pytest.raises(
        ValueError, match=r"shuffle_task_vectors is a control .* has none: give"
    ):
        merge_checkpoints(
            functools.partial(seme_merge, **shuffling()),
            opened(zoo["pivot"]), [opened(zoo["expert"])], tmp_path / "merged",
            settings=SETTINGS, progress=False,
        )  # fmt: skip


def test_adapter_on_its_own_base_is_moved_as_its_product(zoo, tmp_path):
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = pair(key)
    folder = write_adapter(zoo["base"], factors, r=2, lora_alpha=2)
    adapter = open_adapter(folder, base=zoo["base"], root=folder)
    merged, _ = moved(tmp_path / "merged", ADD, zoo["pivot"], adapter, zoo["base"])
    name = "model.layers.0.self_attn.q_proj.weight"
    up, down = factors[f"{key}.lora_B.weight"], factors[f"{key}.lora_A.weight"]
    pivot = tensors_of(zoo["pivot"])
    torch.testing.assert_close(merged[name], pivot[name] + up @ down, atol=1e-6, rtol=0)
    assert all(torch.equal(merged[n], pivot[n]) for n in pivot if n != name)


def test_adapter_moved_by_seme_arrives_with_its_rank_and_length(zoo, tmp_path):
    # as its factors would, T B and A T^-1: the map is linear and was found from the base alone
    rng = torch.Generator().manual_seed(3)
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        name: torch.randn(tensor.shape, generator=rng) for name, tensor in pair(key).items()
    }
    folder = write_adapter(zoo["base"], factors, r=2, lora_alpha=2)
    adapter = open_adapter(folder, base=zoo["base"], root=folder)
    method = functools.partial(seme_merge, **settings_with())
    merged, report = moved(tmp_path / "merged", method, zoo["pivot"], adapter, zoo["base"])
    assert not report.diagnostics["sources"][0]["identity_shortcut"]
    name = "model.layers.0.self_attn.q_proj.weight"
    values = torch.linalg.svdvals(merged[name] - folded(zoo["pivot"]).read(name))
    gain = tensors_of(zoo["base"])["model.layers.0.input_layernorm.weight"]
    up, down = factors[f"{key}.lora_B.weight"], factors[f"{key}.lora_A.weight"]
    assert float(values[2]) < 1e-4 * float(values[1])
    torch.testing.assert_close(
        values[:2], torch.linalg.svdvals(up @ (down * gain))[:2], rtol=0.01, atol=0
    )


def test_base_of_another_shape_than_its_expert_is_refused(zoo, make_llama, tmp_path):
    wide = make_llama(tmp_path / "wide", 1, intermediate_size=32)
    message = (
        r"source 0 .* is not of the shape of its base .*wide\):\n.*and \d+ more\ngive the model"
    )
    with pytest.raises(CheckpointMismatchError, match=message.replace(r"\n.*", r"(?s:.*)")):
        moved(tmp_path / "merged", ADD, zoo["pivot"], zoo["expert"], wide)


def with_head(folder, change=0.0):
    """Write the embedding of a model plus a change as its head."""
    tensors = tensors_of(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + change
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder


@pytest.fixture
def tied(make_llama, tmp_path):
    """A base of another shape whose head is its embedding, its expert, and that with a head."""
    base = make_llama(tmp_path / "tied", 3, hidden_size=8, tie_word_embeddings=True)
    expert = tuned(base, tmp_path / "tied_expert")
    untied = with_head(tuned(base, tmp_path / "untied_expert"))
    return {"base": base, "expert": expert, "untied": untied}


@pytest.mark.parametrize("pivot_is", [{}, {"hidden_size": 8, "tie_word_embeddings": True}])
def test_expert_may_have_a_head_that_its_rewritten_base_has_not(
    make_llama, tied, tmp_path, pivot_is
):
    pivot = make_llama(tmp_path / "pivot", 0, **pivot_is)  # of another shape, or of the base's
    method = functools.partial(seme_merge, **settings_with())
    merged = [
        moved(tmp_path / f"of_{name}", method, pivot, tied[name], tied["base"])[0]
        for name in ("expert", "untied")
    ]
    assert merged[0].keys() == merged[1].keys()
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[0])
    change = merged[0]["lm_head.weight"] - folded(pivot).read("lm_head.weight")
    assert float(change.abs().max()) > 1e-3


@pytest.fixture(params=[2, 3])
def in_frame(make_llama, tmp_path, request):
    """A base in the frame of a pivot, heads their embedding, and an expert with a head."""
    pivot = make_llama(tmp_path / "pivot", 0, tie_word_embeddings=True)
    base = make_llama(
        tmp_path / "base", 1, tie_word_embeddings=True, num_hidden_layers=request.param
    )
    ends = ("model.embed_tokens.weight", "model.norm.weight")
    change_tensors(base, **{name: tensors_of(pivot)[name] for name in ends})
    change = torch.randn(TINY["vocab_size"], 1, generator=torch.Generator().manual_seed(3))
    return {"pivot": pivot, "base": base, "expert": tuned(base, tmp_path / "expert"),
            "change": 0.3 * change}  # fmt: skip


def test_head_of_an_expert_is_not_lost_where_nothing_is_rewritten(in_frame, tmp_path):
    expert = with_head(in_frame["expert"], in_frame["change"])
    method = functools.partial(seme_merge, **settings_with())
    message = (
        r"source 0 .*expert\) has lm_head\.weight, which neither .*identity_tolerance=0, which"
    )
    with pytest.raises(CheckpointMismatchError, match=message):
        moved(tmp_path / "merged", method, in_frame["pivot"], expert, in_frame["base"])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("how", ["pivot with a head", "rewritten"])
def test_head_of_an_expert_arrives_by_both_ways_that_the_refusal_names(in_frame, tmp_path, how):
    expert = with_head(in_frame["expert"], in_frame["change"])
    tolerance = 0.0 if how == "rewritten" else 0.1
    pivot = in_frame["pivot"] if how == "rewritten" else with_head(in_frame["pivot"])
    method = functools.partial(seme_merge, **settings_with(identity_tolerance=tolerance))
    merged, report = moved(tmp_path / "merged", method, pivot, expert, in_frame["base"])
    change = tensors_of(expert)["lm_head.weight"]
    change = change - tensors_of(in_frame["base"])["model.embed_tokens.weight"]
    own = tensors_of(pivot)["model.embed_tokens.weight"]  # gains are ones: nothing is folded
    arrived = torch.linalg.norm(merged["lm_head.weight"] - own)
    assert report.diagnostics["sources"][0]["identity_shortcut"] is (how != "rewritten")
    assert float(arrived) == pytest.approx(float(torch.linalg.norm(change)), rel=1e-3)


def test_expert_with_a_head_of_its_own_is_refused_element_by_element(tied, tmp_path):
    with pytest.raises(CheckpointMismatchError, match=r"lm_head\.weight: shape .* missing"):
        moved(tmp_path / "merged", ADD, tied["base"], tied["untied"], tied["base"])


def test_base_of_other_tokens_than_its_expert_is_refused(zoo, tmp_path):
    base = tuned(zoo["base"], tmp_path / "base", seed=1)
    expert = tuned(zoo["base"], tmp_path / "expert", seed=2)
    for folder, words in ((base, ["a", "b"]), (expert, ["b", "a"])):
        vocabulary = {word: i for i, word in enumerate(words)}
        content = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
        (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointMismatchError, match=r"another tokenizer than its base .*2 ids"
    ):
        moved(tmp_path / "merged", ADD, zoo["pivot"], expert, base)


def test_base_without_a_tokenizer_is_refused_where_alignment_needs_one(zoo, tmp_path):
    pivot = tuned(zoo["pivot"], tmp_path / "pivot")
    content = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}
    (pivot / "tokenizer.json").write_text(json.dumps(content))
    method = functools.partial(seme_merge, **settings_with())
    with pytest.raises(ValueError, match=r"zoo\d+/base has no vocabulary to match tokens by"):
        moved(tmp_path / "merged", method, pivot, zoo["expert"], zoo["base"])


def test_source_that_equals_its_base_is_refused(zoo, tmp_path):
    with pytest.raises(ValueError, match=r"equals its base .* its task vector is zero"):
        moved(tmp_path / "merged", ADD, zoo["pivot"], zoo["base"], zoo["base"])
    assert not (tmp_path / "merged").exists()


def test_source_that_differs_from_its_base_in_its_head_alone_is_merged(tied, zoo, tmp_path):
    method = functools.partial(seme_merge, **settings_with())
    base, change = tied["base"], torch.eye(TINY["vocab_size"], 8)
    same, other = (tuned(base, tmp_path / name, size=0.0) for name in ("same", "other"))
    with pytest.raises(ValueError, match=r"equals its base .* in every weight"):
        moved(tmp_path / "no", method, zoo["pivot"], with_head(same), base)
    merged, _ = moved(tmp_path / "merged", method, zoo["pivot"], with_head(other, change), base)
    pivot = folded(zoo["pivot"])
    changed = [n for n in pivot.names if not torch.equal(merged[n], pivot.read(n))]
    assert changed == ["lm_head.weight"]


def test_base_that_is_no_ancestor_is_warned_of_with_the_figures(repository, tmp_path):
    models = [repository / "eval/zoo/models" / n for n in ("base", "german", "independent")]
    _, report = moved(tmp_path / "merged", ADD, *models)
    (line,) = [w for w in report.warnings if "fine-tune of its base" in w]
    assert (
        "its task vector is 1.41 times as long as the base, the cosine of their weights" in line
    )


def test_plan_counts_the_base_as_a_model_that_is_read(zoo, tmp_path):
    def plan(*bases):
        return plan_merge(
            ADD, opened(zoo["pivot"]), [opened(zoo["expert"])], tmp_path / "merged",
            settings=SETTINGS, bases=bases,
        )  # fmt: skip

    n_bytes = sum(tensor.nbytes for tensor in tensors_of(zoo["base"]).values())
    own, plain = plan(opened(zoo["base"])), plan()
    assert own.read_bytes - plain.read_bytes == n_bytes
    assert own.peak_bytes > plain.peak_bytes
