"""Pruned copies of a model: shapes, what is kept, and a function that is what it was on less."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts.prune import _unusual, kept_axes, kept_layers, main
from scripts.zoo.material import ZOO

BASE = ZOO / "models" / "base"


def _logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(2, 34)[None]
    with torch.no_grad():
        return model(input_ids=tokens).logits[0], model.config


def test_layers_are_left_out_in_the_second_half_but_the_last():
    assert kept_layers(30, 27) == [i for i in range(30) if i not in (15, 19, 24)]
    assert kept_layers(4, 4) == [0, 1, 2, 3]
    assert kept_layers(4, 1) == [3]
    for wanted in range(1, 12):
        kept = kept_layers(12, wanted)
        assert len(set(kept)) == wanted
        assert kept[-1] == 11


def test_axes_are_the_largest_and_the_gain_keeps_the_norm():
    head = torch.tensor([[3.0, 0.1, 2.0, 0.1], [3.0, 0.1, 2.0, 0.1]])
    axes, gain = kept_axes(head, 2)
    assert axes.tolist() == [0, 2]
    share = (9 + 4) / (9 + 4 + 0.02)
    assert gain == pytest.approx((share * 4 / 2) ** 0.5)


def test_neurons_of_the_commonest_size_go_first():
    sizes = torch.tensor([1.0, 100.0, 10.0, 11.0, 9.0, 1e4, 0.0])
    assert _unusual(sizes, 4).tolist() == [0, 1, 5, 6]


def test_a_width_that_transformers_refuses_is_refused(tmp_path, capsys):
    assert main([str(BASE), str(tmp_path / "copy"), "width=151"]) == 1
    assert "multiple of the" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_a_copy_of_the_same_size_is_the_same_model(tmp_path):
    assert main([str(BASE), str(tmp_path / "copy"), "layers=4"]) == 0
    expected, _ = _logits(BASE)
    assert torch.equal(_logits(tmp_path / "copy")[0], expected)


def test_a_pruned_copy_has_the_shape_and_some_of_the_function(tmp_path):
    sizes = ["layers=3", "groups=4", "neurons=400", "width=152"]
    assert main([str(BASE), str(tmp_path / "small"), *sizes]) == 0
    logits, config = _logits(tmp_path / "small")
    assert (config.num_hidden_layers, config.num_attention_heads) == (3, 4)
    assert (config.intermediate_size, config.hidden_size, config.head_dim) == (400, 152, 32)
    expected, _ = _logits(BASE)
    similarity = torch.nn.functional.cosine_similarity(logits, expected).mean()
    shuffled = torch.nn.functional.cosine_similarity(logits, expected.roll(7, 0)).mean()
    assert 1 - similarity < (1 - shuffled) / 3


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([str(BASE)], 2, "usage"),
        ([str(BASE), "x", "depth=3"], 2, "usage"),
        ([str(BASE), "x", "layers=-1"], 2, "usage"),
        ([str(BASE), "x", "layers=5"], 1, "layers must be from 1 to the model's 4, got 5"),
        (["/absent", "x", "layers=1"], 1, "/absent"),
    ],
)
def test_invalid_arguments(arguments, code, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
