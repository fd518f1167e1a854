"""Evaluation of a tiny random Llama, against scores computed from its logits."""

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.harness import evaluate
from eval.load import load_model, load_tokenizer
from eval.suite import Suite, SuiteTask
from eval.tasks import build_tasks

TEXTS = ["one fish two fish", "red fish blue fish", "a black fish", "an old fish swims", "new"]
CHOICES = ["fish", "blue red", "swims"]

DATA = f"""
from datasets import Dataset, DatasetDict
TEXTS, CHOICES = {TEXTS!r}, {CHOICES!r}
def load(**_):
    rows = [dict(text=t, choices=CHOICES, gold=i % 3) for i, t in enumerate(TEXTS)]
    return DatasetDict(test=Dataset.from_list(rows), validation=Dataset.from_list(rows[:2]))
"""
COMMON = """
custom_dataset: !function data.load
test_split: test
doc_to_text: text
metric_list: [{metric: %s, aggregation: %s, higher_is_better: %s}]
"""
TASKS = {
    "pick": "task: pick\noutput_type: multiple_choice\ndoc_to_choice: choices\n"
    "doc_to_target: gold\n" + COMMON % ("acc", "mean", "true"),
    "say": "task: say\noutput_type: generate_until\ndoc_to_target: text\n"
    "generation_kwargs: {until: ['\\n'], max_gen_toks: 4, do_sample: false}\n"
    + COMMON
    % ("exact_match", "mean", "true"),
    "roll": "task: roll\noutput_type: loglikelihood_rolling\ndoc_to_target: text\n"
    + (COMMON % ("bits_per_byte", "bits_per_byte", "false")).replace(": text", ": ''"),
}
PICK = SuiteTask(task="pick", metric="acc", domain="a", kind="multiple_choice", score="raw")
SAY = SuiteTask(task="say", metric="exact_match", domain="b", kind="generate", score="raw")
ROLL = SuiteTask(
    task="roll", metric="bits_per_byte", domain="c", kind="rolling", score="byte_likelihood"
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.py").write_text(DATA)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "both.yaml").write_text("group: both\ntask: [pick, say]\n")
    (folder / "odd.yaml").write_text(
        TASKS["pick"].replace("pick", "odd").replace("acc", "accu")
    )
    return folder


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=280,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )

    def make(seed, *, tied=False):
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(fast), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=64, initializer_range=0.5,
            tie_word_embeddings=tied, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)
        return folder

    return make


def run(model, tasks, *picked, split="test", limit=None):
    suite = Suite(
        name="tiny", split=split, include_path=tasks, batch_size=2, limit=limit,
        tasks=picked, held_out=(),
    )  # fmt: skip
    return evaluate(model, suite, device="cpu", seed=0, progress=False)


def log_probability(folder, context, continuation):
    """Sum of log p(token | all before it), by hand; the context is never scored."""
    tokenizer, model = load_tokenizer(folder), LlamaForCausalLM.from_pretrained(folder)
    start = tokenizer(context)["input_ids"] or [0]
    whole = tokenizer(context + continuation)["input_ids"]
    ids = torch.tensor([whole if context else [0, *whole]])
    with torch.no_grad():
        logs = model(ids).logits.log_softmax(-1)
    picked = logs[0, :-1].gather(1, ids[0, 1:, None])[len(start) - 1 :]
    return float(picked.sum())


def test_multiple_choice_accuracy_equals_hand_computed_likelihoods(make_model, tasks):
    folder = make_model(1)
    right = [
        max(range(3), key=lambda c: log_probability(folder, t, f" {CHOICES[c]}")) == i % 3
        for i, t in enumerate(TEXTS)
    ]
    evaluation = run(folder, tasks, PICK)
    assert [s.value for s in evaluation.samples["pick"]] == [float(r) for r in right]
    assert evaluation.scores["pick"].value == sum(right) / 5
    assert 0 < sum(right) < 5  # the seed is one that tells right from wrong


def test_bits_per_byte_is_a_ratio_of_sums(make_model, tasks):
    folder = make_model(1)
    logs = [log_probability(folder, "", text) for text in TEXTS]
    bits = -sum(logs) / math.log(2) / sum(len(text) for text in TEXTS)
    evaluation = run(folder, tasks, ROLL)
    assert evaluation.scores["roll"].raw == pytest.approx(bits, rel=1e-5)
    assert evaluation.scores["roll"].value == pytest.approx(2**-bits, rel=1e-5)
    assert [s.loglikelihood for s in evaluation.samples["roll"]] == pytest.approx(
        logs, rel=1e-5
    )
    assert [s.n_bytes for s in evaluation.samples["roll"]] == [len(text) for text in TEXTS]


def test_generation_scores_the_greedy_continuation(make_model, tmp_path):
    folder = make_model(3)
    tokenizer, model = load_tokenizer(folder), LlamaForCausalLM.from_pretrained(folder)
    ids = tokenizer(TEXTS[0], return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=1)
    generated = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    generated = generated.split("\n")[0]
    (tmp_path / "data.py").write_text(DATA.replace("text=t,", f"text=t, said={generated!r},"))
    (tmp_path / "say.yaml").write_text(TASKS["say"].replace("target: text", "target: said"))
    values = [s.value for s in run(folder, tmp_path, SAY).samples["say"]]
    assert values[0] == 1.0
    assert sum(values) < 5


def test_answers_longer_than_the_model_reads_are_cut_and_noted(
    make_model, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("eval.tasks._shown", set())  # each warning is shown once per process
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "say.yaml").write_text(TASKS["say"].replace("toks: 4", "toks: 64"))
    assert run(make_model(1), tmp_path, SAY).caps == {"say": 32}
    assert "say: answers are cut at 32 tokens" in caplog.text


def test_models_in_one_process_are_scored_independently(make_model, tasks):
    first, second = make_model(1), make_model(2)
    a, b, again = (run(folder, tasks, ROLL, PICK) for folder in (first, second, first))
    assert a.scores["roll"] != b.scores["roll"]
    assert a == again


def test_scores_follow_the_order_of_the_suite(make_model, tasks):
    evaluation = run(make_model(1), tasks, ROLL, PICK)
    assert list(evaluation.scores) == list(evaluation.samples) == ["roll", "pick"]


def test_split_and_limit_choose_the_documents(make_model, tasks):
    folder = make_model(1)
    whole = run(folder, tasks, ROLL).samples["roll"]
    for chosen, n_first in (({"split": "validation"}, 2), ({"limit": 3}, 3)):
        samples = run(folder, tasks, ROLL, **chosen).samples["roll"]
        assert [s.doc_hash for s in samples] == [s.doc_hash for s in whole[:n_first]]
        # in another batch the last bits may be others
        values = [sample.value for sample in whole[:n_first]]
        assert [sample.value for sample in samples] == pytest.approx(values, rel=1e-4)
    with pytest.raises(ValueError, match=r"roll has splits .*'test', 'validation'.*got 'dev'"):
        run(folder, tasks, ROLL, split="dev")


@pytest.mark.parametrize(
    ("name", "metric", "kind", "message"),
    [
        ("pik", "acc", "multiple_choice", "pik is unknown"),
        ("odd", "accu", "multiple_choice", r"odd has metrics \['accu'\] that lm-eval does not"),
        ("pick", "acc_norm", "multiple_choice", "pick must report acc_norm under filter none"),
        ("pick", "acc", "generate", "pick must be generate_until, it is multiple_choice"),
    ],
)
def test_mismatched_task_is_refused(make_model, tasks, name, metric, kind, message):
    task = SuiteTask(task=name, metric=metric, domain="a", kind=kind, score="raw")
    with pytest.raises(ValueError, match=message):
        run(make_model(1), tasks, task)


def edit(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_untied_config_without_a_head_on_disk_is_refused(make_model):
    folder = make_model(1, tied=True)  # the head is not written
    edit(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"missing_keys: \['lm_head.weight'\]"):
        load_model(folder, device="cpu")


def test_separate_lm_head_under_a_tied_config_is_refused(make_model):
    folder = make_model(1)
    edit(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(ValueError, match="write tie_word_embeddings: false"):
        load_model(folder, device="cpu")


def test_nan_weight_is_refused(make_model):
    folder = make_model(1)
    model = LlamaForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[3] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"model.norm.weight must be finite"):
        load_model(folder, device="cpu")


def test_qwen2_tokenizer_is_loaded_from_its_files(make_model):
    folder = make_model(1)
    edit(folder / "config.json", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.save(str(folder / "tokenizer.json"))
    text = "one fish two fish"
    assert load_tokenizer(folder)(text)["input_ids"] == own.encode(text).ids
    automatic = AutoTokenizer.from_pretrained(folder)
    assert automatic(text)["input_ids"] != own.encode(text).ids  # the trap is still there


def test_evaluation_without_progress_prints_nothing(make_model, tasks, capfd, caplog):
    run(make_model(1), tasks, PICK, ROLL, SAY)
    assert capfd.readouterr() == ("", "")
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []


def test_suite_entries_default_to_the_task_file(make_model, tasks):
    folder = make_model(1)
    plain = run(folder, tasks, *(SuiteTask(task=name) for name in ("pick", "say", "roll")))
    explicit = run(folder, tasks, PICK, SAY, ROLL)
    assert (plain.scores, plain.samples) == (explicit.scores, explicit.samples)
    assert [(t.kind, t.metric, t.score, t.filter) for t in plain.tasks] == [
        ("multiple_choice", "acc", "raw", "none"),
        ("generate", "exact_match", "raw", "none"),
        ("rolling", "bits_per_byte", "byte_likelihood", "none"),
    ]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [(["flexible-extract", "strict-match"], "strict-match"), (["first", "second"], "first")],
)
def test_strict_match_filter_is_the_default(make_model, tmp_path, filters, expected):
    lines = [f"  - {{name: {name}, filter: [{{function: take_first}}]}}" for name in filters]
    (tmp_path / "data.py").write_text(DATA)
    text = "\n".join([TASKS["say"], "filter_list:", *lines, ""])
    (tmp_path / "say.yaml").write_text(text)
    (task,) = run(make_model(1), tmp_path, SuiteTask(task="say")).tasks
    assert task.filter == expected


def test_jinja_templates_score_as_plain_fields(make_model, tasks, tmp_path):
    (tmp_path / "data.py").write_text(DATA)
    text = TASKS["pick"].replace(": text", ": '{{text}}'").replace(": gold", ": '{{gold}}'")
    (tmp_path / "pick.yaml").write_text(text.replace(": choices", ": '{{choices}}'"))
    folder = make_model(1)
    assert run(folder, tmp_path, PICK) == run(folder, tasks, PICK)


def test_unreadable_dataset_names_the_task_and_seme_online(tmp_path):
    text = TASKS["pick"].replace("custom_dataset: !function data.load", "dataset_path: no/such")
    (tmp_path / "pick.yaml").write_text(text)
    suite = Suite(name="s", include_path=tmp_path, tasks=(PICK,))
    with pytest.raises(ValueError, match=r"pick.*no/such.*SEME_ONLINE"):
        build_tasks(suite)
