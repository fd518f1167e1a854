"""Model cards: metadata as the Hub's own client reads it, licences, scores, nothing to inject."""

import re

import pytest
from huggingface_hub import EvalResult, ModelCard

from seme.publishing.card import base_models, card_text, common_licence, warnings_of
from seme.publishing.manifest import InputModel, Manifest
from tests.test_manifest import INPUT, MANIFEST

CONFIG = {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}


def inputs(*changes):
    return tuple(
        InputModel.model_validate({**INPUT, "name": f"m{i}", **change})
        for i, change in enumerate(changes)
    )


def manifest_of(*changes, **top):
    pivot, *sources = (model.model_dump() for model in inputs(*changes))
    return Manifest.model_validate({**MANIFEST, "pivot": pivot, "sources": sources, **top})


def card_of(*changes, results=(), config=CONFIG, **top):
    text = card_text(manifest_of(*changes, **top), "mine", config=config, results=results)
    return ModelCard(text), text


def test_metadata_is_what_the_hub_expects():
    lora = {"path_to_adapter": "org/lora", "location": "org/other"}
    card, _ = card_of({}, {"entry": lora, "commit": "c1", "base_commit": "c2"}, {})
    assert card.data.to_dict() == {
        "base_model": ["org/base", "org/lora", "org/other"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "seme-bench", "average"],
    }


def test_local_models_are_no_base_models():
    local = {"commit": None, "entry": {"location": "./a"}}
    card, text = card_of(local, local, config={})
    assert card.data.to_dict().keys() == {"library_name", "license", "tags"}
    assert "| source | m1 (./a) | a local folder | mit |" in text


@pytest.mark.parametrize(
    ("licences", "common", "told"),
    [
        (["mit", "mit"], "mit", []),
        (["mit", None], None, []),
        ([None, None], None, []),
        (["mit", "apache-2.0"], None, ["the models' licences differ (apache-2.0, mit)"]),
        (["cc-by-nd-4.0"], "cc-by-nd-4.0", ["m0 (cc-by-nd-4.0): FORBIDS MERGING"]),
        (["cc-by-nc-4.0"], "cc-by-nc-4.0", ["m0 (cc-by-nc-4.0): no commercial use"]),
    ],
)
def test_licence_is_carried_over_where_all_agree(licences, common, told):
    models = inputs(*({"licence": licence} for licence in licences))
    assert common_licence(models) == common
    lines = warnings_of(models)
    assert len(lines) == len(told)
    assert all(line.startswith(begin) for line, begin in zip(lines, told, strict=True))


def test_base_of_an_adapter_has_a_say_in_the_licence():
    models = inputs({}, {"base_licence": "llama3"})
    assert common_licence(models) is None
    assert warnings_of(models)[0].startswith("the models' licences differ (llama3, mit)")


def test_licence_that_the_hub_does_not_list_is_another_with_a_name():
    card, _ = card_of({"licence": "qwen-research"})
    assert (card.data.license, card.data.license_name) == ("other", "qwen-research")


def test_conflict_of_licences_is_named_in_the_card():
    card, text = card_of({}, {"licence": "gpl-3.0"})
    assert card.data.license is None
    assert "- licences: gpl-3.0: m1; mit: m0" in text
    assert "the card states none" in text


def test_scores_are_in_the_model_index_and_in_a_table():
    place = ("text-generation", "gsm8k", "gsm8k")
    results = [
        EvalResult(*place, "acc", 0.5, dataset_split="test", metric_args={"n_samples": 9}),
        EvalResult(*place, "acc_stderr", 0.25, dataset_split="test"),
    ]
    card, text = card_of({}, results=results)
    assert card.data.model_name == "mine"
    read = [(r.dataset_type, r.dataset_split, r.metric_type, r.metric_value)
            for r in card.data.eval_results]  # fmt: skip
    assert read == [("gsm8k", "test", "acc", 0.5), ("gsm8k", "test", "acc_stderr", 0.25)]
    assert "| gsm8k | acc | 0.5000 | 0.2500 | 9 |" in text


def test_card_says_how_to_make_the_model_again():
    _, text = card_of({}, {}, command="python run.py a `b`", versions={
        "seme-bench": "9.1", "python": "3.13", "libraries": {"torch": "2.9"},
        "git": {"revision": "abc", "dirty": True},
    })  # fmt: skip
    assert "```bash\npython run.py a `b`\n```" in text
    assert (
        "SeMe bench 9.1, commit `abc` and changes that were not committed, torch 2.9, " in text
    )
    assert "python convert_hf_to_gguf.py FOLDER --outfile mine.gguf" in text
    assert "merge_method: linear" in text


def test_names_of_models_cannot_write_into_the_card():
    name = "a|b](http://x)\n# <script>`"
    entry = {"location": name}
    _, text = card_of({"entry": entry, "commit": None, "name": name, "licence": None}, {})
    assert "\n# <script>" not in text
    assert re.findall(r"^# .*", text, re.MULTILINE) == ["# mine"]
    assert text.count(r"a\|b\](http://x) \# \<script\>\`") > 1


def test_fence_is_longer_than_backticks_in_the_code():
    _, text = card_of({}, command="x ``` y")
    assert "````bash\nx ``` y\n````" in text


def test_base_models_are_named_once():
    assert base_models(inputs({}, {}, {"entry": {"location": "org/b"}})) == [
        "org/base",
        "org/b",
    ]
