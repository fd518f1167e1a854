"""Options of a suite, each against lm-eval alone with the same arguments."""

import json

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from eval import suite_lm
from eval.harness import evaluate
from eval.load import check_chat_template, load_tokenizer
from eval.task_manager import task_manager
from tests.tiny_suite import (
    LOUD,
    PLAIN,
    answers,
    assert_same,
    logged,
    make_model,
    model,
    suite,
    tasks,
)

__all__ = ["logged", "make_model", "model", "suite", "tasks"]  # fixtures


def run(model, suite):
    return evaluate(model, suite, device="cpu", seed=0, progress=False)


def run_alone(model, suite, *, lm=None, **options):
    """Evaluate by lm-eval alone."""
    arguments = {"dtype": "float32", "batch_size": 2, **(lm or {})}
    manager = task_manager(suite.include_path, list(suite.domains))
    return simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", **arguments),
        tasks=list(suite.domains),
        task_manager=manager,
        bootstrap_iters=0,
        fewshot_random_seed=0,
        **options,
    )


CHAT = {"chat_template": True}
OPTIONS = [
    ({}, {}, {}),
    (CHAT, {}, {"apply_chat_template": True}),
    (
        {**CHAT, "num_fewshot": 2},
        {},
        {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": True},
    ),
    (
        {**CHAT, "num_fewshot": 2, "fewshot_as_multiturn": False},
        {},
        {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": False},
    ),
    (
        {**CHAT, "system_instruction": "Be brief."},
        {},
        {"apply_chat_template": True, "system_instruction": "Be brief."},
    ),
    ({"system_instruction": "Be brief."}, {}, {"system_instruction": "Be brief."}),
    ({"num_fewshot": 1}, {}, {"num_fewshot": 1}),
    (
        {"gen_kwargs": {"max_gen_toks": 3, "until": ["e"]}},
        {},
        {"gen_kwargs": {"max_gen_toks": 3, "until": ["e"]}},
    ),
    ({"max_length": 12}, {"max_length": 12}, {}),
    ({"batch_size": 3}, {"batch_size": 3}, {}),
    ({"batch_size": "60 tokens"}, {}, {}),
    ({"batch_size": "auto"}, {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "lm", "options"), OPTIONS, ids=lambda o: json.dumps(o))
def test_a_suite_with_options_scores_as_lm_eval_alone(
    entries, lm, options, model, suite, logged
):
    chosen = suite(**entries)
    scores = run(model, chosen).scores
    results = run_alone(model, chosen, lm=lm, **options)["results"]
    assert_same(*map(answers, logged))
    for task, metric in (("pick", "acc"), ("pick0", "acc"), ("say", "exact_match")):
        assert scores[task].raw == results[task][f"{metric},none"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_precision_is_that_of_lm_eval_alone(dtype, model, suite, logged):
    chosen = suite(dtype=dtype)
    run(model, chosen)
    run_alone(model, chosen, lm={"dtype": dtype})
    assert_same(*map(answers, logged), tolerance=0)


def test_prompts_change_with_the_options(model, suite, logged):
    for entries in ({}, CHAT, {"num_fewshot": 1}, {"system_instruction": "x"}):
        run(model, suite("pick", **entries))
    prompts = {samples["pick"][0]["arguments"][0][0] for samples in logged}
    assert len(prompts) == 4
    assert "<system>Swim. <user>one fish<assistant>" in prompts


def test_a_named_template_is_used(make_model, model, suite, logged):
    several = make_model({"default": PLAIN, "loud": LOUD})
    run(several, suite("pick", chat_template="loud"))
    assert logged[0]["pick"][0]["arguments"][0][0].startswith("[system!]")
    run(several, suite("pick", **CHAT))
    run(model, suite("pick", **CHAT))
    assert_same(*map(answers, logged[1:]), tolerance=0)


REFUSING = "{{ raise_exception('no system') if messages[0].role == 'system' else 'x' }}"


@pytest.mark.parametrize(
    ("template", "entries", "message"),
    [
        (None, CHAT, "chat_template=true: the tokenizer in .* has no chat template"),
        (None, {"chat_template": "x"}, "chat_template=x: .* has no chat template"),
        (PLAIN, {"chat_template": "x"}, r"one of \['default'\] .*, got 'x'"),
        ({"a": PLAIN, "b": LOUD}, CHAT, r"one of \['a', 'b'\] .*, got 'default'"),
        (REFUSING, {**CHAT, "system_instruction": "x"}, "refuses a system message"),
    ],
)
def test_a_chat_template_that_is_not_there_is_refused(
    template, entries, message, make_model, suite
):
    with pytest.raises(ValueError, match=message):
        check_chat_template(make_model(template), suite(**entries))


@pytest.mark.parametrize("template", [PLAIN, {"default": PLAIN, "loud": LOUD}])
def test_chat_templates_that_are_there_pass(template, make_model, suite):
    folder = make_model(template)
    check_chat_template(folder, suite(**CHAT, system_instruction="x"))
    check_chat_template(folder, suite(chat_template="default"))
    check_chat_template(folder, suite())


ON_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
)
ON_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")


def fail_above(monkeypatch, name, most_rows, error=ON_GPU):
    """Let a method of the model run out of memory with more than so many rows."""
    original = getattr(suite_lm.SuiteLM, name)
    tried = []

    def call(self, rows=None, *args, **options):
        batch = options["context"] if rows is None else rows
        tried.append(len(batch))
        if len(batch) > most_rows:
            raise error
        return original(self, *([] if rows is None else [rows]), *args, **options)

    monkeypatch.setattr(suite_lm.SuiteLM, name, call)
    return tried


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("pick", "_forward"),
        ("pick", "_model_call"),
        ("roll", "_model_call"),
        ("say", "_model_generate"),
    ],
)
@pytest.mark.parametrize("batch_size", [5, "400 tokens"])
def test_batches_are_halved_until_memory_suffices(
    task, name, batch_size, model, suite, monkeypatch, caplog, logged
):
    if name == "_model_call":
        monkeypatch.setattr(suite_lm, "can_pack", lambda _config: False)
    run(model, suite(task, batch_size=1))
    tried = fail_above(monkeypatch, name, 1)
    run(model, suite(task, batch_size=batch_size))
    assert max(tried) > 1
    assert tried[-1] == 1
    assert_same(*map(answers, logged))
    assert {r.getMessage()[:17] for r in caplog.records} == {"too little memory"}
    if batch_size == 5:  # the lengths of texts decide nothing
        assert len(caplog.records) == 1


def test_batches_are_halved_on_a_processor_too(model, suite, monkeypatch, caplog):
    tried = fail_above(monkeypatch, "_forward", 2, ON_CPU)
    run(model, suite("pick", batch_size=8))
    assert tried[:2] == [4, 2]  # trees of two requests
    assert [r.getMessage()[:17] for r in caplog.records] == ["too little memory"]


@pytest.mark.parametrize("error", [ON_CPU, ON_GPU])
def test_one_row_that_does_not_fit_is_an_error(error, model, suite, monkeypatch):
    fail_above(monkeypatch, "_model_generate", 0, error)
    with pytest.raises(ValueError, match=r"one row of \d+ tokens.*max_length"):
        run(model, suite("say", batch_size=4))


def test_other_errors_of_the_model_are_passed_on(model, suite, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(suite_lm.SuiteLM, "_model_generate", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        run(model, suite("say"))


def test_half_precision_is_not_packed(model, suite, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("packed")

    monkeypatch.setattr(suite_lm, "log_likelihoods", refuse)
    run(model, suite("pick", dtype="bfloat16"))
    with pytest.raises(AssertionError, match="packed"):
        run(model, suite("pick"))


def test_templates_listed_in_the_tokenizer_s_configuration_are_found_by_name(make_model, suite):
    folder = make_model(None)
    path = folder / "tokenizer_config.json"
    templates = [{"name": n, "template": t} for n, t in (("default", PLAIN), ("loud", LOUD))]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": templates}))
    assert load_tokenizer(folder).chat_template == {"default": PLAIN, "loud": LOUD}
    check_chat_template(folder, suite(chat_template="loud"))
    with pytest.raises(ValueError, match=r"one of \['default', 'loud'\] .*, got 'x'"):
        check_chat_template(folder, suite(chat_template="x"))


def test_saved_templates_are_found_by_name(make_model):
    folder = make_model({"default": PLAIN, "loud": LOUD})
    assert (folder / "additional_chat_templates/loud.jinja").read_text() == LOUD
    assert load_tokenizer(folder).chat_template == {"default": PLAIN, "loud": LOUD}
