"""Pools of models on the Hub: each is planned from config and index of the published shapes."""

import pytest
import yaml

import seme.outline
from seme.binding import bind_method
from seme.interface import CheckpointMismatchError
from seme.job import job_from_config
from seme.outline import open_outline
from seme.plan import plan_merge
from seme.pool import terms_of_pool
from tests.configurations import CONF
from tests.hub_fixtures import config_of, write_snapshot
from tests.settings import SETTINGS, TOP_LEVEL

SEVERAL_SHAPES = {"qwen_2_5_sizes", "pythia_sizes", "smollm2_sizes", "other_tokenizers"}


def read_pool(name):
    """A pool's file; where the sources are to be given, the pivot is the source."""
    pool = yaml.safe_load((CONF / "models" / f"{name}.yaml").read_text())
    if pool["sources"] == "???" and pool["pivot"] != "???":
        pool["sources"] = [{"name": "expert", "location": pool["pivot"]["location"]}]
    return pool


def is_on_the_hub(name):
    pivot = read_pool(name)["pivot"]
    return pivot != "???" and not pivot["location"].startswith(("eval/", "results/"))


POOLS = sorted(
    path.stem for path in (CONF / "models").glob("*.yaml") if is_on_the_hub(path.stem)
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def planned(cache, monkeypatch):
    """Plan a pool without a network: ``planned(pool, "ties")``."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("seme.outline._specs_of_architecture", _specs_of_architecture)

    def plan(pool, method_name):
        for model in (pool["pivot"], *pool["sources"]):
            write_snapshot(cache, model["location"])
        config = yaml.safe_load((CONF / "method" / f"{method_name}.yaml").read_text())
        given = {key: 0.2 if value == "${tau}" else value for key, value in config.items()}
        job = job_from_config(
            {**TOP_LEVEL, "models": pool}, method_name, bind_method(given),
            root=cache, opener=open_outline,
        )  # fmt: skip
        sources = [source.checkpoint for source in job.sources]
        return plan_merge(job.method, job.base, sources, cache / "new", settings=SETTINGS)

    return plan


_build = seme.outline._specs_of_architecture
_built = {}


def _specs_of_architecture(folder):
    """Build each architecture once, whatever models have it."""
    config = (folder / "config.json").read_text()
    if config not in _built:
        _built[config] = _build(folder)
    return _built[config]


PARAMETERS = {
    "mergebench_llama_3_2_3b": 3_212_749_824,
    "mergebench_llama_3_1_8b": 8_030_261_248,
    "mergebench_gemma_2_2b": 2_614_341_888,
    "mergebench_gemma_2_9b": 9_241_705_984,
    "dare_llama_2_13b": 13_015_864_320,
    "llama_2_7b": 6_738_415_616,
    "mistral_7b": 7_241_732_096,
    "qwen_2_5_1_5b": 1_543_714_304,
    "qwen_2_5_7b": 7_615_616_512,
    "fuseo1_qwen_2_5_32b": 32_763_876_352,
    "smollm2_sizes": 134_515_008,
    "pythia_sizes": 405_334_016,
}
"""Parameters of pivots, as their model cards state them (from memory)."""


@pytest.mark.parametrize("name", POOLS)
def test_every_pool_on_the_hub_is_planned(name, planned):
    pool = read_pool(name)
    if name in SEVERAL_SHAPES:
        with pytest.raises(CheckpointMismatchError, match="does not fit the pivot"):
            planned(pool, "ties")
    plan = planned(pool, "seme" if name in SEVERAL_SHAPES else "ties")
    assert plan.n_parameters == PARAMETERS.get(name, plan.n_parameters)
    assert plan.n_parameters > 1e8
    assert plan.written_bytes == 2 * plan.n_parameters
    assert plan.read_bytes >= (1 + len(pool["sources"])) * plan.written_bytes * 0.3


def test_extra_rows_of_published_models_are_in_the_plan(planned):
    plan = planned(read_pool("mergebench_llama_3_2_3b"), "ties")
    (line,) = [line for line in plan.warnings if "rows" in line]
    assert "MergeBench--Llama-3.2-3B_math" in line
    assert "model.embed_tokens.weight has 128320 rows, the pivot 128256" in line
    assert "the source's other 64 left out" in line


def test_other_rope_theta_of_published_models_is_in_the_plan(planned):
    plan = planned(read_pool("qwen_2_5_7b"), "ties")
    (line,) = plan.warnings
    assert "Qwen2.5-Math-7B" in line
    assert "rope_theta: 1000000.0 expected, 10000.0 found" in line


def test_single_file_models_are_planned_without_their_weights(planned, cache):
    planned(read_pool("pythia_sizes"), "seme")
    folders = (cache / "models--EleutherAI--pythia-410m/snapshots").iterdir()
    assert [sorted(file.name for file in folder.iterdir()) for folder in folders] == [
        ["config.json", "tokenizer.json"]
    ]


def test_gated_models_and_licences_are_told_before_a_model_is_opened():
    lines = terms_of_pool(read_pool("other_tokenizers"))
    assert lines[0] == (
        "licences: apache-2.0: Qwen2.5-1.5B, SmolLM2-1.7B; llama3.2: Llama-3.2-1B"
    )
    assert lines[1].startswith("gated: meta-llama/Llama-3.2-1B: accept the terms")
    assert terms_of_pool(read_pool("zoo")) == []
    (_, research) = terms_of_pool(read_pool("qwen_2_5_sizes"))
    assert research.startswith("Qwen2.5-3B (qwen-research): no commercial use")


def test_fixture_has_the_published_rows():
    assert config_of("MergeBench/Llama-3.2-3B-Instruct_math")["vocab_size"] == 128320
    assert config_of("Qwen/Qwen2.5-Math-7B")["rope_theta"] == 10_000.0
