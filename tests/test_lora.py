"""LoRA adapters: the weights PEFT would merge, to the last bit where the numbers allow."""

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from seme.checkpoint.lora import open_adapter
from seme.checkpoint.lora_config import lora_settings
from seme.checkpoint.reader import open_checkpoint
from tests.adapters import KEY, PLAIN, pair, write_adapter

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

Q0 = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path, make_llama):
    return make_llama(tmp_path / "base", 0)


def opened(folder, **options):
    return open_adapter(folder, root=folder.parent, **options)


def refused(folder, match):
    with pytest.raises(ValueError, match=match) as caught:
        opened(folder)
    return caught.value


def trained(base, **options):
    """Save an adapter of random factors with PEFT; return its folder and PEFT's own merge."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) / 4)
            elif "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    folder = base.parent / "trained"
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return folder, again.merge_and_unload().state_dict()


@pytest.mark.parametrize(
    ("config", "module", "scaling"),
    [
        ({"r": 4, "lora_alpha": 8}, "model.layers.0.mlp.up_proj", 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, "x", 4.0),
        ({"rank_pattern": {"q_proj": 3}}, "model.q_proj", 2.0),
        ({"rank_pattern": {"q_proj": 3}}, "model.xq_proj", 3.0),
        ({"alpha_pattern": {r"layers\.[01]\.q": 1}}, "model.layers.1.q", 0.5),
        ({"alpha_pattern": {"0.q": 1, "q": 2}}, "model.layers.0.q", 0.5),
    ],
)
def test_the_scaling_is_alpha_over_r_of_the_module(config, module, scaling):
    assert lora_settings({**PLAIN, **config}).scaling_of(module) == scaling


LINEAR = {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"]}


@pytest.mark.parametrize(
    "options",
    [
        LINEAR,
        {**LINEAR, "use_rslora": True},
        {
            **LINEAR,
            "rank_pattern": {"layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"q_proj": 9},
        },
        {**LINEAR, "use_dora": True},
        {**LINEAR, "target_modules": ["embed_tokens", "o_proj"]},
        {**LINEAR, "target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
        {**LINEAR, "modules_to_save": ["lm_head", "input_layernorm"]},
    ],
)
def test_the_weights_are_those_peft_merges(base, options):
    folder, expected = trained(base, **options)
    model, untouched = opened(folder), open_checkpoint(base, root=base)
    assert model.names == untouched.names
    for name in model.names:
        assert torch.allclose(model.read(name), expected[name], rtol=1e-5, atol=1e-6), name
    assert any(not torch.equal(model.read(n), untouched.read(n)) for n in model.names)


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_transposed_weights_of_gpt2_are_those_peft_merges(tmp_path, use_dora):
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=8)
    config.bos_token_id = config.eos_token_id = 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    options = {"r": 2, "target_modules": ["c_attn", "c_proj"], "use_dora": use_dora}
    folder, expected = trained(tmp_path / "base", fan_in_fan_out=True, **options)
    model = opened(folder)
    for name in model.names:
        assert torch.allclose(model.read(name), expected[name], rtol=1e-5, atol=1e-6), name


def test_an_adapter_finds_weights_stored_without_the_prefix_of_the_body(base):
    tensors = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors")
    model = opened(write_adapter(base, pair()))
    name = Q0.removeprefix("model.")
    assert torch.allclose(model.read(name), bare[name] + 6.0)  # 6 / 2 times 1 + 1


def test_specs_and_bytes_are_those_of_what_is_read(base):
    tensors = load_file(base / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in tensors.items()}, base / "model.safetensors")
    norm = {"base_model.model.model.norm.weight": torch.ones(16)}
    model = opened(write_adapter(base, pair() | norm))
    for name in model.names:
        tensor = model.read(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (model.dtype(name), model.shape(name))
    n_base = sum(tensor.numel() for tensor in tensors.values()) - 16
    assert model.bytes_read == model.nbytes == 2 * n_base + 4 * (16 + 2 * 2 * 16)
    assert (model.dtype(Q0), model.dtype("model.norm.weight")) == (torch.float32, torch.float32)


def test_a_piece_of_a_tensor_is_that_piece_of_the_whole(base):
    options = {**LINEAR, "use_dora": True, "modules_to_save": ["lm_head"]}
    folder, _ = trained(base, **options)
    model, expected = opened(folder), {}
    for name in model.names:
        expected[name] = model.read(name).flatten()
    before = model.bytes_read
    for name, whole in expected.items():
        tensor = model.opened(name)
        piece = tensor.read(5, 12)
        assert (piece.dtype, piece.tolist()) == (model.dtype(name), whole[5:12].tolist()), name
        assert torch.equal(tensor.read(len(whole) - 3, len(whole)), whole[-3:]), name
    assert model.bytes_read > before


def test_the_base_can_be_given_and_must_otherwise_be_named(base, make_llama):
    other = make_llama(base.parent / "other", 5)
    folder = write_adapter(base, pair())
    assert opened(folder).base.path == base
    assert opened(folder, base="other").base.path == other
    refused(write_adapter(base, pair(), base_model_name_or_path=None), "does not name its base")


def test_a_base_that_is_absent_is_an_error_that_names_the_adapter(base):
    folder = write_adapter(base, pair(), base_model_name_or_path="./gone")
    error = refused(folder, r"no model folder at .*gone")
    assert error.__notes__ == [f"while opening the base of the adapter {folder}"]


def test_the_hash_follows_base_factors_and_settings_but_not_how_the_adapter_was_trained(base):
    def hashed(tensors=None, **config):
        return opened(write_adapter(base, tensors or pair(), **config)).content_hash()

    first = hashed()
    assert hashed(lora_dropout=0.5, peft_version="1") == first
    assert hashed(lora_alpha=7) != first
    assert hashed({name: tensor * 2 for name, tensor in pair().items()}) != first
    assert hashed(base_model_name_or_path=str(base)) == first
    save_file(
        {n: t + 1 for n, t in load_file(base / "model.safetensors").items()},
        base / "model.safetensors",
    )
    assert hashed() != first


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be LORA, got 'LOHA'"),
        ({"peft_type": "VERA"}, "peft_type must be LORA, got 'VERA'"),
        ({"bias": "lora_only"}, "bias must be 'none', got 'lora_only'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be .* got 'pissa'"),
        ({"lora_bias": True}, "lora_bias is True, which is not supported"),
        ({"target_parameters": ["x"]}, r"target_parameters is \['x'\]"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices is \[3\]"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying is True"),
        ({"use_something_new": True}, "use_something_new is True"),
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"lora_alpha": math.inf}, "lora_alpha must be a finite number, got inf"),
        ({"rank_pattern": {"q": True}}, r"rank_pattern\[q\] must be a whole number"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern holds '\(', no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern must map module names to numbers"),
    ],
)
def test_what_cannot_be_told_exactly_is_refused_by_name(config, match):
    with pytest.raises(ValueError, match=match):
        lora_settings({**PLAIN, **config})


B = f"{KEY}.lora_B.weight"
MAGNITUDE = f"{KEY}.lora_magnitude_vector"


@pytest.mark.parametrize(
    ("tensors", "config", "match"),
    [
        (pair("model.q_proj"), {}, "should begin with base_model.model."),
        (pair("base_model.model.h.9"), {}, r"changes h.9.weight, which the base .* has not"),
        ({B: torch.ones(16, 2)}, {}, r"q_proj has \['up'\] .* expected \['down', 'up'\]"),
        (pair() | {MAGNITUDE: torch.ones(16)}, {}, r"has \['down', 'magnitude', 'up'\]"),
        (pair(), {"use_dora": True}, r"expected \['down', 'magnitude', 'up'\].*use_dora True"),
        (
            pair() | {MAGNITUDE: torch.ones(3)},
            {"use_dora": True},
            r"shape \(3,\), expected \(16",
        ),
        (pair(rank=3), {}, r"shapes \(3, 16\) and \(16, 3\), expected \(2, inputs\)"),
        (pair(inputs=5), {}, r"from 5 inputs to 16 outputs, but .* has shape \(16, 16\)"),
        (
            pair() | {f"{KEY}.lora_B.bias": torch.ones(16)},
            {},
            r"lora_B.bias .* no part of a LoRA",
        ),
        (
            {"base_model.model.lm_head.weight": torch.ones(65, 16)},
            {},
            r"shape \(65, 16\), but lm_head.weight of the base has \(64, 16\)",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(base, tensors, config, match):
    folder = write_adapter(base, tensors, **config)
    error = refused(folder, match)
    assert error.__notes__ == [f"while reading the adapter {folder} of the base {base}"]


def test_square_weights_are_refused_where_others_contradict_the_setting(base):
    mixed = pair() | pair(KEY.replace("q_proj", "k_proj"), outputs=8)
    refused(write_adapter(base, mixed, fan_in_fan_out=True), "fan_in_fan_out is True, but some")
    alone = pair(KEY.replace("q_proj", "k_proj"), outputs=8)
    opened(write_adapter(base, alone, fan_in_fan_out=True))


EMBEDDING, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{EMBEDDING}.weight": torch.ones(64, 16)}, "model.embed_tokens.weight"),
        (
            {
                f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 64),
                f"{EMBEDDING}.lora_embedding_B": torch.ones(16, 2),
            },
            "model.embed_tokens.weight",
        ),
        ({f"{HEAD}.weight": torch.ones(64, 16)}, "lm_head.weight"),
        (pair(HEAD, outputs=64), "lm_head.weight"),
    ],
)
def test_a_change_of_a_tied_matrix_is_refused(tmp_path, make_llama, tensors, named):
    base = make_llama(tmp_path / "base", 0, tie_word_embeddings=True)
    refused(write_adapter(base, tensors), rf"changes {named}, but .* embedding is its head too")
    opened(write_adapter(base, pair()))


def test_an_adapter_of_a_quantised_base_says_so(base):
    tensors = load_file(base / "model.safetensors")
    packed = {**tensors, Q0: torch.ones(8, 16, dtype=torch.uint8)}
    save_file(packed, base / "model.safetensors")
    error = refused(write_adapter(base, pair()), rf"quantised: {Q0} .* it was quantised from")
    assert error.__notes__ == [
        f"while opening the base of the adapter {base.parent / 'adapter'}"
    ]


def test_a_folder_that_is_no_adapter_or_a_pickled_one_is_refused(base):
    refused(base, r"has no adapter_config.json: it is not a PEFT adapter")
    folder = write_adapter(base, pair())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, "has no adapter_model.safetensors: .*safe_serialization=True")
    (folder / "adapter_config.json").write_text("[]")
    refused(folder, r"must hold a JSON object, got \[\]")
    (folder / "adapter_config.json").write_text("{")
    refused(folder, "adapter_config.json cannot be parsed")


def test_a_square_embedding_takes_its_change_as_peft_stores_it(tmp_path, make_llama):
    base = make_llama(tmp_path / "base", 0, vocab_size=16)
    key, tokens = "base_model.model.model.embed_tokens", torch.arange(16.0)
    up = torch.ones(16, 1)
    tensors = {f"{key}.lora_embedding_A": tokens.view(1, 16), f"{key}.lora_embedding_B": up}
    model = opened(write_adapter(base, tensors, r=1, lora_alpha=1))
    change = model.read("model.embed_tokens.weight") - model.base.read(
        "model.embed_tokens.weight"
    )
    assert torch.allclose(change, tokens.view(16, 1).expand(16, 16), atol=1e-5)


def test_the_revision_in_the_configuration_is_that_of_the_base_named_there(base):
    folder = write_adapter(base, pair(), revision="main")
    refused(folder, "revision is for Hub ids only, got 'main'")
    assert opened(folder, base=base).base.path == base
