"""LoRA configurations: scalings as PEFT computes them, unsupported entries refused."""

import json
import math

import pytest

from seme.checkpoint.lora_config import parse_lora_config
from tests.adapters import PLAIN


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
def test_scaling_is_alpha_over_rank_per_module(config, module, scaling):
    assert parse_lora_config({**PLAIN, **config}).scaling_of(module) == scaling


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
        ({"use_dora": True, "fan_in_fan_out": True}, "use_dora .* fan_in_fan_out"),
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"lora_alpha": math.inf}, "lora_alpha must be a finite number, got inf"),
        ({"rank_pattern": {"q": True}}, r"rank_pattern\[q\] must be a whole number"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a finite number"),
        ({"use_dora": 1}, "use_dora must be true or false, got 1"),
        ({"alpha_pattern": {"a{99999999999}": 1}}, "alpha_pattern has .* repeats too often"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern has .* '\('"),
        ({"alpha_pattern": [1]}, "alpha_pattern must map module names to numbers"),
    ],
)
def test_unsupported_entries_are_refused_by_name(config, match):
    with pytest.raises(ValueError, match=match):
        parse_lora_config({**PLAIN, **config})


def test_settings_as_json_keep_the_order_of_patterns():
    settings = parse_lora_config({**PLAIN, "rank_pattern": {"b": 1, "a": 2}})
    assert json.dumps(settings.as_json()) == (
        '{"rank": 2, "alpha": 6, "rank_pattern": {"b": 1, "a": 2}, "alpha_pattern": {}, '
        '"rank_stabilised": false, "decomposed": false, "transposed": false}'
    )
