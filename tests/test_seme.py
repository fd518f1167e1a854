"""SeMe end to end, in memory, on tiny random models of every supported architecture."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from seme.alignment import ResidualMap, align_tensor
from seme.architecture import gain_in_front_of, roles_of
from seme.fusion import select_compute_erase
from seme.method import merge, prepare
from seme.types import Models, Role, Site

CPU = torch.device("cpu")
WIDTH = 16
SHAPE = {
    "vocab_size": 128,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 8, "attention_bias": True},
}
SETTINGS = {
    "tau": 1.0,
    "lam": 1.0,
    "renormalize": False,
    "select": "deltas",
    "projection": "orthogonal",
    "identity_tolerance": 1e-3,
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def random_model(family="llama", seed=0, **overrides):
    """Build a model in which gains and biases are random too, as no initialiser makes them."""
    config = AutoConfig.for_model(
        family.split()[0], **{**SHAPE, **FAMILIES.get(family, {}), **overrides}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=rng)
        else:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    model.tie_weights()
    return model


class InMemory:
    """A model's tensors as they would lie on disk, and what was read of them."""

    def __init__(self, model, **changes):
        self.config = model.config.to_dict()
        named = dict(model.named_parameters())  # a tied tensor stands once
        self.tensors = {n: changes.get(n, t.detach()) for n, t in sorted(named.items())}
        self.names = tuple(self.tensors)
        self.was_read = set()

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def read(self, name):
        self.was_read.add(name)
        return self.tensors[name]


def models_of(pivot, *sources, left_out=()):
    inputs = [m if isinstance(m, InMemory) else InMemory(m) for m in (pivot, *sources)]
    names = tuple(name for name in inputs[0].names if name not in left_out)
    return Models(pivot=inputs[0], sources=tuple(inputs[1:]), merged_names=names, device=CPU)


def prepared(models, **settings):
    keys = ("projection", "identity_tolerance")
    return prepare(models, **{key: {**SETTINGS, **settings}[key] for key in keys})


def merged_tensors(pivot, *sources, **settings):
    models = models_of(pivot, *sources)
    alignment = prepared(models, **settings)
    return {
        name: merge(a, b, Site(name=name, prepared=alignment.at(name)), **SETTINGS | settings)
        for name, a, b in models.stream()
    }


def with_tensors(model, tensors):
    twin = copy.deepcopy(model)
    twin.load_state_dict(tensors)
    return twin


def turned(model, rotation, fold=True):
    tensors = InMemory(model).tensors
    roles = roles_of(model.config.to_dict(), list(tensors))
    turn = ResidualMap(forward_PK=rotation, backward_KP=rotation.T, distance=1.4)
    aligned = {}
    for name, tensor in tensors.items():
        norm = gain_in_front_of(name)
        aligned[name] = align_tensor(tensor, roles[name], turn, tensors[norm] if norm else None)
        if roles[name] is Role.NORM and not fold:
            aligned[name] = tensor
    return with_tensors(model, aligned)


def random_rotation(seed=9):
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng))[0]


def logits_apart(model, other):
    """Return the largest difference of logits, over the spread of the first model's."""
    tokens = torch.arange(24).reshape(2, 12) * 5
    with torch.no_grad():
        first, second = model(tokens).logits, other(tokens).logits
    return float((first - second).abs().max() / first.std())


@every_family
def test_a_model_turned_by_any_rotation_computes_the_same_logits(family):
    model = random_model(family)
    twin = turned(model, random_rotation())
    assert logits_apart(model, twin) < 1e-4
    assert not torch.allclose(model.lm_head.weight, twin.lm_head.weight, atol=0.1)


def test_a_model_turned_without_setting_its_gains_to_one_computes_something_else():
    model = random_model()
    assert logits_apart(model, turned(model, random_rotation(), fold=False)) > 0.1


@every_family
@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_merging_a_model_with_itself_returns_it_bit_for_bit(family, projection):
    model = random_model(family)
    merged = merged_tensors(model, model, model, projection=projection, tau=0.3)
    assert all(torch.equal(merged[n], t) for n, t in InMemory(model).tensors.items())


def test_merging_a_tied_model_with_itself_returns_it_bit_for_bit():
    model = random_model(tie_word_embeddings=True)
    merged = merged_tensors(model, model)
    assert "lm_head.weight" not in merged
    assert all(torch.equal(merged[n], t) for n, t in InMemory(model).tensors.items())


def test_the_literal_operator_destroys_even_a_merge_with_oneself():
    model = random_model()
    merged = with_tensors(model, merged_tensors(model, model, projection="cosine"))
    assert logits_apart(model, merged) > 0.1


@every_family
@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_a_pivot_in_another_frame_merges_back_into_itself(family, projection):
    model = random_model(family)
    source = turned(model, random_rotation())
    merged = with_tensors(model, merged_tensors(model, source, projection=projection))
    assert logits_apart(model, merged) < 1e-4


def test_a_plain_average_of_two_frames_of_one_model_destroys_it():
    model = random_model()
    source = turned(model, random_rotation())
    ours, theirs = InMemory(model).tensors, InMemory(source).tensors
    average = with_tensors(model, {n: (ours[n] + theirs[n]) / 2 for n in ours})
    assert logits_apart(model, average) > 1.0


@every_family
def test_one_source_selected_whole_is_that_source_in_the_pivots_frame(family):
    pivot, source = random_model(family), random_model(family, seed=3)
    alignment = prepared(models_of(pivot, source))
    turn = alignment.sources[0].residual_map
    aligned = InMemory(turned(source, turn.forward_PK)).tensors
    merged = merged_tensors(pivot, source)
    assert all(torch.allclose(merged[n], t, atol=1e-6) for n, t in aligned.items())
    assert logits_apart(source, with_tensors(pivot, merged)) < 1e-4


def test_sources_in_the_pivots_frame_are_merged_as_they_are():
    pivot, tensors = random_model(), InMemory(random_model(seed=3)).tensors
    kept = {n: pivot.state_dict()[n] for n in ("lm_head.weight", "model.norm.weight")}
    source = with_tensors(pivot, tensors | kept)
    merged = merged_tensors(pivot, source, tau=0.4)
    name = "model.layers.1.mlp.up_proj.weight"
    fusion = {key: SETTINGS[key] for key in ("lam", "renormalize", "select")}
    weights = pivot.state_dict()[name], [tensors[name]]
    assert torch.equal(merged[name], select_compute_erase(*weights, tau=0.4, **fusion))


def test_a_source_that_took_the_short_cut_is_folded_when_another_is_turned():
    model = random_model()
    sources = model, turned(model, random_rotation())
    merged = merged_tensors(model, *sources)
    assert merged["model.norm.weight"].tolist() == [1.0] * WIDTH
    assert logits_apart(model, with_tensors(model, merged)) < 1e-4


def test_the_order_of_turned_sources_does_not_matter():
    pivot, a, b = (random_model(seed=seed) for seed in range(3))
    forth, back = merged_tensors(pivot, a, b, tau=0.3), merged_tensors(pivot, b, a, tau=0.3)
    assert all(torch.equal(forth[name], back[name]) for name in forth)


def test_a_merge_has_the_same_bits_on_each_run_and_leaves_its_inputs_alone():
    pivot, source = random_model(), random_model(seed=3)
    before = copy.deepcopy(source.state_dict())
    first, second = (merged_tensors(pivot, source, tau=0.3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], t) for name, t in source.state_dict().items())


def test_same_frame_sources_cost_the_reading_of_heads_and_final_norms_only():
    models = models_of(random_model(), random_model())
    prepared(models)
    assert models.sources[0].was_read == {"lm_head.weight", "model.norm.weight"}


def test_a_turned_source_costs_the_reading_of_all_gains_besides():
    models = models_of(random_model(), random_model(seed=3))
    prepared(models)
    names = models.sources[0].was_read - {"lm_head.weight"}
    assert len(names) == 5
    assert all(name.endswith("norm.weight") for name in names)


def test_the_diagnostics_tell_the_frame_of_every_source():
    model = random_model()
    found = prepared(models_of(model, model, random_model(seed=3))).diagnostics()
    same, other = found["sources"]
    assert (found["projection"], found["gains_folded"]) == ("orthogonal", True)
    assert (same["identity_shortcut"], other["identity_shortcut"]) == (True, False)
    assert same["distance_from_identity"] < 1e-10
    assert other["distance_from_identity"] == pytest.approx(2**0.5, abs=0.2)
    assert same["condition"] == found["pivot"]["condition"] > 1.0
    assert same["ridge"] == 0.0
    assert min(same["seconds_bases"], same["seconds_map"]) > 0.0


def test_fewer_tokens_than_dimensions_are_reported_as_a_ridge():
    model = random_model(vocab_size=12)
    found = prepared(models_of(model, model)).diagnostics()
    assert found["sources"][0]["ridge"] == found["pivot"]["ridge"] > 0.0
    assert found["sources"][0]["identity_shortcut"]


def test_the_tolerance_decides_who_is_turned():
    models = models_of(random_model(), random_model(seed=3))
    assert prepared(models, identity_tolerance=2.0).at("lm_head.weight").role is None
    assert prepared(models, identity_tolerance=0.0).at("lm_head.weight").role is Role.HEAD
    itself = models_of(random_model(), random_model())
    assert prepared(itself, identity_tolerance=0.0).at("lm_head.weight").role is Role.HEAD


def test_a_tied_model_that_would_have_to_be_turned_is_refused_with_the_reason():
    models = models_of(*(random_model(seed=s, tie_word_embeddings=True) for s in (0, 3)))
    with pytest.raises(
        ValueError, match=r"tied to the head: the gain of model.norm.weight sits"
    ):
        prepared(models)


def test_a_source_that_says_it_is_tied_is_refused_though_the_pivot_is_not():
    models = models_of(random_model(), random_model(seed=3))
    models.sources[0].config["tie_word_embeddings"] = True
    with pytest.raises(ValueError, match=r"embedding model.embed_tokens.weight is tied"):
        prepared(models)


def test_gemmas_gain_counts_as_one_more_than_is_stored():
    llama, stored = random_model(), torch.linspace(0.5, 1.5, WIDTH)
    gemma = InMemory(llama, **{"model.norm.weight": stored - 1.0})
    gemma.config["model_type"] = "gemma2"
    found = prepared(models_of(gemma, gemma)).diagnostics()
    expected = torch.linalg.cond(llama.lm_head.weight.detach().double() * stored.double())
    assert found["pivot"]["condition"] == pytest.approx(float(expected), rel=1e-6)


GPT2 = {"n_embd": WIDTH, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}


def test_an_unsupported_architecture_merges_in_one_frame_and_is_refused_in_two():
    models = [random_model("gpt2", seed=s, tie_word_embeddings=True, **GPT2) for s in (0, 3)]
    ln_f = {"transformer.ln_f.weight": torch.linspace(0.5, 1.5, WIDTH)}
    ours, theirs = (InMemory(model, **ln_f) for model in models)
    merged = merged_tensors(ours, ours)
    assert all(torch.equal(merged[name], tensor) for name, tensor in ours.tensors.items())
    with pytest.raises(ValueError, match="got 'gpt2'; choose sources in the pivot's own frame"):
        prepared(models_of(ours, theirs))


def test_a_source_of_an_unsupported_architecture_is_refused_though_the_pivots_is_not():
    models = models_of(random_model(), random_model(seed=3))
    models.sources[0].config["model_type"] = "gemma"
    with pytest.raises(ValueError, match="got 'gemma'"):
        prepared(models)


def test_a_norm_left_out_of_a_merge_that_folds_it_is_refused():
    left_out = ("model.layers.1.input_layernorm.weight",)
    with pytest.raises(
        ValueError, match=r"\['model.layers.1.input_layernorm.weight'\] are left"
    ):
        prepared(models_of(random_model(), random_model(seed=3), left_out=left_out))


def test_an_embedding_may_be_left_out_for_nothing_is_folded_into_it():
    models = models_of(
        random_model(), random_model(seed=3), left_out=("model.embed_tokens.weight",)
    )
    assert prepared(models).diagnostics()["gains_folded"]


def test_a_source_with_a_head_that_is_not_finite_is_named():
    model = random_model()
    broken = InMemory(model, **{"lm_head.weight": torch.full((128, WIDTH), torch.nan)})
    with pytest.raises(ValueError, match="must be finite") as caught:
        prepared(models_of(model, model, broken))
    assert caught.value.__notes__ == ["while solving for the semantic bases of source 1"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("projection", "polar", "one of cosine, least_squares, orthogonal, got 'polar'"),
        ("identity_tolerance", -0.1, "identity_tolerance must be at least 0, got -0.1"),
        ("identity_tolerance", float("nan"), "must be a finite number, got nan"),
        ("tau", 1.5, r"tau must be in \(0, 1\], got 1.5"),
        ("select", "all", "select must be one of coefficients, deltas, got 'all'"),
    ],
)
def test_a_setting_out_of_range_is_named_in_the_error(key, value, message):
    model = random_model()
    with pytest.raises(ValueError, match=message):
        merged_tensors(model, model, **{key: value})


def test_a_merge_without_its_preparation_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="preparation has not run"):
        merge(torch.zeros(2), [torch.zeros(2)], Site(name="x"), **SETTINGS)


def test_the_configuration_names_every_setting_and_no_other():
    path = Path(__file__).parent.parent / "conf" / "method" / "seme.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = inspect.signature(merge).parameters.values()
    named = {parameter.name for parameter in keys if parameter.kind is parameter.KEYWORD_ONLY}
    assert set(written) == named | {"_target_", "_partial_"}
    assert written["identity_tolerance"] == 0.1
