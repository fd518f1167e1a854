"""Merge job from its configuration: refusals, identity, recorded models."""

import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import seme.job
from baselines import average, slerp, task_arithmetic
from seme.checkpoint.gguf_conversion import (
    CONVERTER_VERSION,
    ORIGIN_FILE,
    place_in_cache,
)
from seme.job import job_from_config
from seme.pool import terms_of_pool
from tests.adapters import pair, write_adapter
from tests.gguf_files import gguf_model, write_gguf
from tests.settings import TOP_LEVEL

AVERAGE = partial(average.merge, weights=None)


@pytest.fixture(scope="module")
def folder(make_llama, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "code", "french", "other"]):
        make_llama(root / name, seed)
    return root


def make(root, method=AVERAGE, *, top=None, **models):
    pool = {"name": None, "pivot": "base", "sources": ["code"], "references": []}
    config = {**TOP_LEVEL, **(top or {}), "models": pool | models}
    return job_from_config(config, "average", method, root=root)


def refuse(*_arguments, **_options):
    raise AssertionError("a model was opened")


def test_wrong_source_count_stops_before_a_model_is_opened(folder, monkeypatch):
    monkeypatch.setattr(seme.job, "open_named", refuse)
    message = r"slerp\.merge merges exactly 1 source into the pivot, got 2"
    with pytest.raises(ValueError, match=message):
        make(folder, partial(slerp.merge, t=0.5), sources=["code", "french"])
    with pytest.raises(ValueError, match=r"expected 1, got 2: \[1.0, 2.0\]"):
        make(folder, partial(average.merge, weights=[1.0, 2.0]))


def test_pool_requires_only_pivot_and_sources(folder):
    config = {**TOP_LEVEL, "models": {"pivot": "base", "sources": ["code"]}}
    job = job_from_config(config, "average", AVERAGE, root=folder)
    assert (job.pool, job.references) == ("custom: base + code", ())
    with pytest.raises(ValueError, match=r"has \['pivot', 'sources'\] .*got \['sources'\]"):
        job_from_config(
            {**TOP_LEVEL, "models": {"sources": ["code"]}}, "average", AVERAGE, root=folder
        )


def test_recorded_locations_are_relative_to_repository_or_home(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(folder / "code", tmp_path / "models" / "code")
    sources = ["~/models/code", str(tmp_path / "models" / "code"), str(folder / "french")]
    models = make(folder, pivot="base", sources=sources).described_models()
    assert models["pivot"]["location"] == "base"
    assert [source["location"] for source in models["sources"]] == [
        "~/models/code", "~/models/code", "french",
    ]  # fmt: skip


def test_described_models_have_names_locations_and_hashes(folder):
    revised = {"name": "Code", "location": "code"}
    models = make(folder, sources=[revised], references=["other"]).described_models()
    assert (models["pivot"]["name"], models["sources"][0]["name"]) == ("base", "Code")
    assert [reference["location"] for reference in models["references"]] == ["other"]
    assert len(models["sources"][0]["content_hash"]) == 32


def test_adapter_can_be_a_source_but_not_the_pivot(folder):
    lora = write_adapter(folder / "base", pair())
    (source,) = make(folder, sources=[{"path_to_adapter": str(lora)}]).sources
    assert (source.name, source.location, source.revision) == ("adapter", "adapter", None)
    assert source.checkpoint.base.path == folder / "base"
    other = {"path_to_adapter": str(lora), "location": "code", "name": "other"}
    (source,) = make(folder, sources=[other]).sources
    assert (source.name, source.checkpoint.base.path) == ("other", folder / "code")
    with pytest.raises(ValueError, match="the pivot must be a checkpoint of its own"):
        make(folder, pivot={"path_to_adapter": str(lora)})


def test_adapter_source_is_written_as_a_full_model(folder, tmp_path):
    lora = write_adapter(folder / "base", pair())
    job = make(
        folder,
        sources=[{"path_to_adapter": str(lora), "location": "code"}, "french"],
        top={"exclude": ["lm_head*"], "dtype": "bfloat16"},
    )
    adapted, french = job.sources
    assert job.folder_of(french, tmp_path / "none") == folder / "french"
    written = load_file(job.folder_of(adapted, tmp_path / "whole") / "model.safetensors")
    assert written.keys() == set(adapted.checkpoint.names)
    for name, values in written.items():
        assert torch.equal(values, adapted.checkpoint.read(name).bfloat16()), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_source_with_a_base_of_its_own_names_it_in_the_record_and_the_identity(folder):
    source = {"location": "code", "base": {"location": "other", "revision": None}}
    job, plain = (
        make(folder, sources=[source, "french"]),
        make(folder, sources=["code", "french"]),
    )
    described = job.described_models()["sources"]
    other = make(folder, pivot="other").described_models()["pivot"]["content_hash"]
    assert (described[0]["base"]["location"], described[0]["base"]["content_hash"]) == (
        "other",
        other,
    )
    assert "base" not in described[1]
    assert job.identity() == {**plain.identity(), "bases": [other, None]}
    assert "bases" not in plain.identity()
    assert make(
        folder, sources=[{"location": "code", "base": "other"}, "french"]
    ).identity() == (job.identity())


def test_base_of_an_adapter_is_what_it_is_applied_to(folder):
    lora = write_adapter(folder / "base", pair())
    (source,) = make(folder, sources=[{"path_to_adapter": str(lora), "base": "code"}]).sources
    assert source.checkpoint.base.path == source.own_base.path == folder / "code"
    both = {"path_to_adapter": str(lora), "base": "code", "location": "other"}
    with pytest.raises(ValueError, match="base and location of an adapter are both what it is"):
        make(folder, sources=[both])


def test_merge_of_a_job_adds_what_the_source_changed_over_its_base(folder, tmp_path):
    scaled = partial(task_arithmetic.merge, lam=1.0, weights=None)
    job = make(folder, scaled, sources=[{"location": "code", "base": "other"}])
    job.run(tmp_path / "merged", progress=False)
    merged, pivot, code, other = (
        load_file(path / "model.safetensors")
        for path in (tmp_path / "merged", *(folder / n for n in ("base", "code", "other")))
    )
    assert all(torch.equal(merged[n], pivot[n] + (code[n] - other[n])) for n in pivot)


def test_null_entries_are_ignored(folder):
    (source,) = make(folder, sources=[{"location": "code", "path_to_adapter": None}]).sources
    assert source.checkpoint.path == folder / "code"


def test_a_pool_without_a_name_is_named_after_its_models(folder):
    assert make(folder, sources=["code", "french"]).pool == "custom: base + code, french"
    named = {"name": "zoo", "pivot": "base", "sources": ["code"], "references": []}
    assert (
        job_from_config({**TOP_LEVEL, "models": named}, "average", AVERAGE, root=folder).pool
        == "zoo"
    )


def test_model_name_is_sanitised_for_file_names(folder):
    shutil.copytree(folder / "code", folder / "my code (v2)", dirs_exist_ok=True)
    assert make(folder, sources=["my code (v2)"]).sources[0].name == "my-code-v2-"


def test_sources_of_one_name_are_told_apart_in_the_record(folder, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(folder / "code", tmp_path / name / "checkpoint-100")
    sources = [str(tmp_path / name / "checkpoint-100") for name in ("a", "b")]
    models = make(folder, sources=sources).described_models()
    assert [source["name"] for source in models["sources"]] == [
        "a-checkpoint-100", "b-checkpoint-100",
    ]  # fmt: skip


def test_a_relative_folder_that_is_absent_says_where_it_was_looked_for(
    folder, tmp_path, monkeypatch
):
    shutil.copytree(folder / "code", tmp_path / "mine")
    monkeypatch.setenv("PWD", str(tmp_path))
    with pytest.raises(ValueError, match="mine") as error:
        make(folder, sources=["mine"])
    assert error.value.__notes__ == [
        f"relative folders are looked for in {folder}; did you mean {tmp_path}/mine?"
    ]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"name": 5}, "models.name must be a text, got 5"),
        (
            {"sources": [{"location": "code", "revision": 1}]},
            r"a model is .*, each a text \(revision: \"1\"\), .*'revision': 1",
        ),
        ({"sources": "code"}, r"models.sources must be a list such as \[A,B\], got 'code'"),
        ({"sources": []}, "merges at least 1 source into the pivot, got 0"),
        ({"references": None}, "models.references must be a list"),
        ({"source": ["code"]}, r"'sources'\] .*, got .*'source'"),
        ({"pivot": {"path": "base"}}, r"a model is .*'location'.*got \{'path': 'base'\}"),
        (
            {"pivot": {"name": "base"}},
            "a model is a folder, a GGUF file, a hub id or a mapping",
        ),
        ({"sources": [{"path_to_adapter": "a", "location": 3}]}, "a model is a folder, .*: 3"),
        ({"pivot": {"location": "base", "gated": 1}}, "gated must be true or false, got 1"),
        ({"pivot": 3}, "a model is a folder, a GGUF file, a hub id or a mapping of .*; got 3"),
        ({"pivot": {"name": "a/b", "location": "base"}}, "a model's name .*got 'a/b'"),
        ({"pivot": {"name": 3, "location": "base"}}, "a model is .*, each a text .*'name': 3"),
        ({"pivot": "no/such/folder"}, "no model folder at .*no/such/folder"),
        ({"sources": [{"location": "code", "base": 3}]}, "base of a source is .*, got 3"),
        ({"sources": [{"location": "code", "base": {"name": "x"}}]}, "base of a source is"),
        (
            {"sources": [{"location": "code", "base": "no/such/base"}]},
            "no model folder at .*no/such/base",
        ),
        ({"sources": [{"base": "code"}]}, "a model is a folder"),
        ({"pivot": {"location": "base", "base": "code"}}, "a base of its own is for sources"),
        ({"references": [{"location": "code", "base": "base"}]}, "a base of its own is for"),
        ({"sources": [{"location": "code", "adapter_revision": "v1"}]}, "use revision"),
        ({"sources": [{"path_to_adapter": "lora", "revision": "v1"}]}, "use adapter_revision"),
        ({"sources": [{"path_to_adapter": "code", "adapter_revision": "v1"}]}, "'v1' .*code"),
    ],
)
def test_invalid_pool_is_refused(folder, models, message):
    with pytest.raises(ValueError, match=message):
        make(folder, **models)


def test_terms_of_use_are_not_in_the_record(folder):
    plain, stated = {"location": "code"}, {"location": "code", "licence": "mit", "gated": False}
    job, same = make(folder, sources=[plain]), make(folder, sources=[stated])
    assert same.described_models() == job.described_models()
    assert same.identity() == job.identity()


def test_terms_of_a_pool_need_no_model():
    pool = {"pivot": {"location": "a/b", "gated": True}, "sources": ["c/d"]}
    assert terms_of_pool(pool) == [
        "licences: not stated: b, d",
        "gated: a/b: accept the terms on the model's page of the Hub, and log in with "
        "`hf auth login`",
    ]
    with pytest.raises(ValueError, match="a pool of models has"):
        terms_of_pool({"pivot": "a"})


def test_identity_changes_with_method_seed_dtype_and_models(folder):
    first = make(folder).identity()
    scaled = partial(task_arithmetic.merge, lam=0.4, weights=None)
    others = [
        make(folder, partial(average.merge, weights=[2.0])).identity(),
        make(folder, scaled).identity(),
        make(folder, top={"seed": 1}).identity(),
        make(folder, top={"dtype": "float16"}).identity(),
        make(folder, top={"exclude": ["lm_head*"]}).identity(),
        make(folder, sources=["french"]).identity(),
        make(folder, sources=["code", "french"]).identity(),
        make(folder, sources=["french", "code"]).identity(),
        make(folder, pivot="french").identity(),
    ]
    assert all(other != first for other in others)
    assert len({str(other) for other in others}) == len(others)


def test_identity_has_tokens_only_where_they_are_not_the_same(folder):
    """Records of before the setting keep their fingerprints."""
    assert "tokens" not in make(folder).identity()
    assert make(folder, top={"tokens": "by_text"}).identity()["tokens"] == "by_text"


def test_identity_ignores_names_locations_references_and_unused_tau(folder, tmp_path):
    shutil.copytree(folder / "code", tmp_path / "moved")
    moved = {"name": "x", "location": str(tmp_path / "moved")}
    same = make(folder, sources=[moved], references=["other"], top={"tau": 0.7})
    assert same.identity() == make(folder).identity()


def test_identity_changes_with_numbers_version(folder, monkeypatch):
    before = make(folder).identity()
    monkeypatch.setattr(seme.job, "NUMBERS_VERSION", 10_000)
    assert {k for k, v in make(folder).identity().items() if v != before[k]} == {"numbers"}


def test_gguf_model_is_named_as_dequantised_and_is_pivot_and_source(folder, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    job = make(folder, pivot=str(path), sources=[str(path.parent)])
    models = job.described_models()
    for model in (models["pivot"], models["sources"][0]):
        assert model["dequantised_from"]["types"] == {"F32": 5, "Q8_0": 15}
        assert model["dequantised_from"]["converter"] == CONVERTER_VERSION
    assert models["pivot"]["location"] == str(path)
    assert "dequantised_from" not in make(folder).described_models()["pivot"]
    job.run(tmp_path / "merged", progress=False)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    pivot = load_file(job.base.path / "model.safetensors")
    assert all(torch.equal(merged[name], pivot[name]) for name in pivot)
    assert not (tmp_path / "merged" / ORIGIN_FILE).exists()
    assert job.folder_of(job.pivot, tmp_path / "unused") == job.base.path


def test_fault_of_a_gguf_source_is_found_before_the_pivot_is_converted(folder, tmp_path):
    pivot = write_gguf(tmp_path / "pivot.gguf", gguf_model(initializer_range=0.5), kind="Q4_0")
    source = tmp_path / "source.gguf"
    source.write_bytes(pivot.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"source\.gguf is cut short or damaged"):
        make(folder, pivot=str(pivot), sources=[str(source)])
    assert not place_in_cache((pivot,)).exists()


def test_adapter_on_a_gguf_base_names_the_type_of_its_base(folder, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    adapter = write_adapter(path, pair(inputs=32, outputs=32))
    source = {"path_to_adapter": str(adapter)}
    (described,) = make(folder, pivot=str(path), sources=[source]).described_models()["sources"]
    assert described["dequantised_from"]["types"] == {"F32": 5, "Q8_0": 15}


def test_overrides_are_part_of_the_identity_only_where_there_are_any(folder):
    method = partial(task_arithmetic.merge, lam=0.4, weights=None)
    entries = [{"match": "*.mlp.*", "lam": 0.3}]
    plain, empty = make(folder, method), make(folder, method, top={"overrides": []})
    assert empty.identity() == plain.identity()
    assert plain.hyper_parameters() == {"lam": 0.4, "weights": None}
    job = make(folder, method, top={"overrides": entries})
    assert job.hyper_parameters()["overrides"] == '[{"match":"*.mlp.*","lam":0.3}]'
    changed = {k for k, v in job.identity().items() if v != plain.identity()[k]}
    assert changed == {"hyper_parameters"}


def test_override_of_an_unknown_parameter_stops_before_a_model_is_opened(folder, monkeypatch):
    monkeypatch.setattr(seme.job, "open_named", refuse)
    with pytest.raises(ValueError, match="the method has no parameter lam, only weights"):
        make(folder, top={"overrides": [{"match": "*", "lam": 0.3}]})
