"""Fixtures: one task of each kind over five texts, and a tiny random model that reads bytes."""

import pytest
import torch
from lm_eval import evaluator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.suite import suite_from_config

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
LOUD = "{% for m in messages %}[{{ m.role }}!]{{ m.content }}{% endfor %}[assistant!]"
DATA = """
from datasets import Dataset, DatasetDict
def load(**_):
    texts = ["one fish", "a red fish swims on", "blue", "an old black fish", "new fish"]
    rows = [dict(text=t, choices=["fish", "blue red"], gold=i % 2) for i, t in enumerate(texts)]
    return DatasetDict(test=Dataset.from_list(rows), train=Dataset.from_list(rows[::-1]))
"""
COMMON = """
custom_dataset: !function data.load
test_split: test
training_split: train
fewshot_split: train
doc_to_text: text
description: "Swim. "
"""
ACC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
PICK = f"output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n{ACC}"
SAY = (
    "output_type: generate_until\ndoc_to_target: text\n"
    "generation_kwargs: {until: ['zz'], max_gen_toks: 6, do_sample: false}\n"
) + ACC.replace("acc", "exact_match")
ROLL = "output_type: loglikelihood_rolling\ndoc_to_target: text\n" + ACC.replace(
    "acc, aggregation: mean", "bits_per_byte, aggregation: bits_per_byte"
).replace("true", "false")
TASKS = {"pick": PICK, "pick0": f"{PICK}num_fewshot: 0\n", "say": SAY, "roll": ROLL}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.py").write_text(DATA)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}{COMMON}")
    return folder


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    def make(chat_template):
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=24, max_position_embeddings=256,
            initializer_range=0.5, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
        )
        fast.chat_template = chat_template
        fast.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(PLAIN)


@pytest.fixture
def suite(tasks):
    def build(*names, **options):
        entries = {"name": "s", "include_path": str(tasks), "batch_size": 2, **options}
        return suite_from_config({**entries, "tasks": list(names or TASKS)}, root=tasks)

    return build


@pytest.fixture
def logged(monkeypatch):
    """Samples that lm-eval's ``evaluate`` logs, one entry for each call."""
    calls, original = [], evaluator.evaluate

    def call(*args, **options):
        results = original(*args, **options)
        calls.append(results["samples"])
        return results

    monkeypatch.setattr(evaluator, "evaluate", call)
    monkeypatch.setattr(evaluator, "add_env_info", lambda _results: None)  # asks pip
    return calls


def answers(samples):
    """Prompts and answers of each task's documents; generated text or log-likelihoods."""
    return {
        task: [([*sample["arguments"]], sample["resps"]) for sample in logged]
        for task, logged in samples.items()
    }


def assert_same(ours, alone, tolerance=1e-5):
    assert ours.keys() == alone.keys()
    for task, logged in ours.items():
        for (asked, answered), (asked_alone, answered_alone) in zip(
            logged, alone[task], strict=True
        ):
            assert asked == asked_alone
            for (answer,), (expected,) in zip(answered, answered_alone, strict=True):
                assert answer == (
                    expected
                    if isinstance(expected, str)
                    else pytest.approx(expected, rel=tolerance)
                )
