"""lm-eval's vLLM model on a stub of vllm, against its Hugging Face model."""

import importlib
import sys
from dataclasses import replace

import pytest

from eval.evaluator import Evaluator
from eval.harness import evaluation_of, score_here
from tests.stub_vllm import VERSION, write_stub
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
VLLM = Evaluator(name="vllm", gpu_memory_utilization=0.5)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """The stub, imported from a folder of its own for the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(write_stub(tmp_path_factory.mktemp("vllm")))
        vllm = importlib.import_module("vllm")

        yield vllm
    for name in [n for n in sys.modules if n == "vllm" or n.startswith("vllm.")]:
        del sys.modules[name]


def run(folder, suite, *, seed=0):
    scored = score_here(folder, suite, device="cpu", seed=seed, progress=False)
    return evaluation_of(suite, scored)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chat_template": True, "system_instruction": "Be brief."},
        {"num_fewshot": 1},
        {"max_length": 64, "gen_kwargs": {"max_gen_toks": 3, "until": ["e"]}},
    ],
)
def test_scores_are_those_of_the_hugging_face_model(options, model, suite, logged):
    chosen = suite(**options)
    by_vllm = run(model, replace(chosen, evaluator=VLLM))
    by_hf = run(model, chosen)
    assert_same(*map(answers, logged), tolerance=1e-4)
    values = [{task: s.raw for task, s in e.scores.items()} for e in (by_vllm, by_hf)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_vllm_gets_the_options_of_the_evaluator_and_the_suite(vllm, model, suite):
    run(model, replace(suite("pick", max_length=99), evaluator=VLLM), seed=7)
    started = vllm.STARTED[-1]
    assert started.items() >= {
        "dtype": "float32", "max_model_len": 99, "seed": 7, "trust_remote_code": False,
        "tensor_parallel_size": 1, "gpu_memory_utilization": 0.5,
    }.items()  # fmt: skip
    run(model, replace(suite("pick", dtype="bfloat16"), evaluator=VLLM))
    assert vllm.STARTED[-1]["dtype"] == "bfloat16"


@pytest.mark.usefixtures("vllm")
def test_a_named_template_is_used(make_model, suite, logged):
    several = make_model({"default": PLAIN, "loud": LOUD})
    run(several, replace(suite("pick", chat_template="loud"), evaluator=VLLM))
    assert logged[0]["pick"][0]["arguments"][0][0].startswith("[system!]")


@pytest.mark.usefixtures("vllm")
def test_answers_are_cut_as_in_the_hugging_face_model(model, suite):
    chosen = suite("say", max_length=24, gen_kwargs={"max_gen_toks": 24})
    assert (
        run(model, replace(chosen, evaluator=VLLM)).caps
        == run(model, chosen).caps
        == {"say": 12}
    )


@pytest.mark.usefixtures("vllm")
def test_the_version_of_vllm_is_in_the_record(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _device: "a GPU")
    assert VLLM.lacking() is None
    assert VLLM.described("cuda") == {
        "backend": "vllm", "version": VERSION, "device": "a GPU", "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.5,
    }  # fmt: skip
