from importlib.metadata import version

import pytest

from eval.suite import suite_from_config

TASK = {
    "task": "a",
    "metric": "acc",
    "domain": "code",
    "kind": "multiple_choice",
    "score": "raw",
}
BITS = {
    "task": "b", "metric": "bits_per_byte", "domain": "english", "kind": "rolling",
    "score": "byte_likelihood",
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.yaml").write_text("task: a")
    return {
        "name": "s", "split": "test", "include_path": "tasks", "batch_size": 8, "limit": None,
        "tasks": [TASK, BITS], "held_out": ["english"],
    }  # fmt: skip


def test_suite_keeps_task_order_and_resolves_include_path(config, tmp_path):
    suite = suite_from_config(config, root=tmp_path)
    assert suite.domains == {"a": "code", "b": "english"}
    assert suite.include_path == tmp_path / "tasks"
    assert suite.tasks[0].filter is None
    assert suite.tasks[0].num_fewshot is None


def test_suite_needs_only_include_path_and_tasks(tmp_path):
    (tmp_path / "tasks").mkdir()
    least = {"name": "s", "include_path": "tasks", "tasks": ["a", {"task": "b", "domain": "x"}]}
    suite = suite_from_config(least, root=tmp_path)
    assert suite.domains == {"a": "a", "b": "x"}
    assert (suite.split, suite.limit, suite.held_out) == (None, None, ())
    assert suite.described()["tasks"]["a"] == dict.fromkeys(
        ["metric", "kind", "score", "filter", "num_fewshot"]
    )


def test_a_task_is_a_name_or_a_mapping(config, tmp_path):
    with pytest.raises(ValueError, match="3"):
        suite_from_config(config | {"tasks": [3]}, root=tmp_path)


def test_no_tasks_means_no_suite(config, tmp_path):
    assert suite_from_config(config | {"tasks": []}, root=tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 3}, r"suite s: unknown keys \['batchsize'\]"),
        ({"tasks": [TASK, TASK]}, r"suite s has tasks twice: \['a'\]"),
        ({"tasks": [TASK | {"score": "mean"}]}, "score .*, got 'mean' in task a"),
        ({"tasks": [TASK | {"kind": "choice"}]}, "kind .*, got 'choice' in task a"),
        ({"tasks": [TASK | {"shots": 3}]}, r"task a: unknown keys \['shots'\]"),
        ({"tasks": [BITS | {"score": "raw"}]}, "byte_likelihood .* bits_per_byte"),
        ({"held_out": ["latin"]}, r"no task has the held-out domains \['latin'\]"),
        ({"batch_size": 0}, "batch_size must be .* at least 1, auto or 'N tokens', got 0"),
        ({"batch_size": "many"}, "batch_size .*, got 'many'"),
        ({"batch_size": "0 tokens"}, "batch_size .*, got '0 tokens'"),
        ({"chat_template": 3}, "chat_template must be true, false or the name .*, got 3"),
        ({"chat_template": None}, "chat_template .*, got None"),
        ({"system_instruction": ""}, "system_instruction .*, got ''"),
        ({"fewshot_as_multiturn": True}, "fewshot_as_multiturn .* chat_template=true"),
        ({"fewshot_as_multiturn": "yes"}, "fewshot_as_multiturn .*, got 'yes'"),
        ({"num_fewshot": -1}, "num_fewshot .* at least 0, got -1"),
        ({"gen_kwargs": "temperature=1"}, "gen_kwargs must be a mapping .*, got 'temp"),
        ({"gen_kwargs": {"a": {"b": 1}}}, r"gen_kwargs must hold no mappings, got {'b': 1}"),
        ({"gen_kwargs": {"max_new_tokens": 1}}, r"max_gen_toks, got \['max_new_tokens'\]"),
        ({"max_length": 1}, "max_length .* at least 2 tokens, got 1"),
        ({"dtype": "int8"}, r"suite.dtype .*'bfloat16'.*, got 'int8'"),
        ({"allow_code_execution": 1}, "allow_code_execution must be true or false, got 1"),
        ({"tasks": "gsm8k"}, r"tasks must be a list, \[A,B\], got 'gsm8k'"),
        ({"held_out": "english"}, "held_out must be a list, .* got 'english'"),
        ({"include_path": 3}, "include_path must be a text, got 3"),
        ({"split": 3}, "split must be a text, got 3"),
        ({"tasks": [TASK | {"domain": 3}]}, "task a: domain must be a text, got 3"),
        ({"tasks": [TASK | {"metric": ["acc"]}]}, r"task a: metric must be a text, got \['acc"),
        ({"tasks": [{"task": None}]}, "task and domain must be names"),
        ({"tasks": [TASK | {"num_fewshot": -1}]}, "task a: num_fewshot .* at least 0, got -1"),
        ({"limit": 1}, "limit must be .* at least 2 .*, got 1"),
        ({"include_path": "nowhere"}, "include_path .*, got .*nowhere"),
    ],
)
def test_invalid_suite_is_refused(config, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        suite_from_config(config | change, root=tmp_path)


def test_a_missing_key_is_named(config, tmp_path):
    del config["tasks"]
    with pytest.raises(ValueError, match=r"suite s: missing keys \['tasks'\]"):
        suite_from_config(config, root=tmp_path)


NO_OPTIONS = {
    "chat_template": False, "system_instruction": None, "fewshot_as_multiturn": None,
    "num_fewshot": None, "gen_kwargs": None, "max_length": None, "dtype": None,
    "allow_code_execution": False,
}  # fmt: skip
"""As in conf/config.yaml."""
CHAT = {"chat_template": True}


@pytest.mark.parametrize(
    ("options", "described"),
    [
        (CHAT, CHAT),
        ({"chat_template": "rag"}, {"chat_template": "rag"}),
        (CHAT | {"fewshot_as_multiturn": False}, CHAT | {"fewshot_as_multiturn": False}),
        ({"system_instruction": "Be brief."}, {"system_instruction": "Be brief."}),
        ({"num_fewshot": 0}, {"num_fewshot": 0}),
        (
            {"gen_kwargs": {"until": ["a"], "do_sample": True}},
            {"gen_kwargs": {"do_sample": True, "until": ["a"]}},
        ),
        ({"max_length": 9}, {"max_length": 9}),
        ({"dtype": "float32"}, {"dtype": "float32"}),
    ],
)
def test_options_count_where_they_are_set(config, tmp_path, options, described):
    plain = suite_from_config(config, root=tmp_path)
    unset = suite_from_config(config | NO_OPTIONS, root=tmp_path)
    suite = suite_from_config(config | NO_OPTIONS | options, root=tmp_path)
    assert unset.fingerprint() == plain.fingerprint() != suite.fingerprint()
    assert unset.described() == plain.described()
    expected = plain.described() | described | {"fingerprint": suite.fingerprint()}
    assert suite.described() == expected
    assert hash(suite) != hash(plain)


@pytest.mark.parametrize(
    ("before", "options"),
    [
        ({}, {"fewshot_as_multiturn": False}),
        (CHAT, {"fewshot_as_multiturn": True}),
        ({}, {"allow_code_execution": True}),
        ({}, {"batch_size": "auto"}),
        ({}, {"batch_size": "512 tokens"}),
        ({}, {"gen_kwargs": {}}),
    ],
)
def test_options_that_change_no_score_do_not_count(config, tmp_path, before, options):
    plain = suite_from_config(config | before, root=tmp_path)
    suite = suite_from_config(config | before | options, root=tmp_path)
    assert suite.fingerprint() == plain.fingerprint()
    assert suite.described() == plain.described()


@pytest.mark.parametrize(
    "change", [{"limit": 5}, {"split": "validation"}, {"tasks": [TASK], "held_out": []}]
)
def test_fingerprint_changes_with_limit_split_and_tasks(config, tmp_path, change):
    before = suite_from_config(config, root=tmp_path).fingerprint()
    assert suite_from_config(config | change, root=tmp_path).fingerprint() != before


def test_fingerprint_depends_on_task_files_but_not_caches(config, tmp_path):
    suite = suite_from_config(config, root=tmp_path)
    before = suite.fingerprint()
    (tmp_path / "tasks" / "__pycache__").mkdir()
    (tmp_path / "tasks" / "__pycache__" / "load.pyc").write_bytes(b"x")
    assert suite.fingerprint() == before
    (tmp_path / "tasks" / "a.yaml").write_text("task: a ")
    assert suite.fingerprint() != before


def test_fingerprint_ignores_batch_size_and_folder_location(config, tmp_path):
    before = suite_from_config(config, root=tmp_path).fingerprint()
    (tmp_path / "tasks").rename(tmp_path / "moved")
    moved = config | {"include_path": "moved", "batch_size": 1}
    assert suite_from_config(moved, root=tmp_path).fingerprint() == before


def test_described_suite_has_every_entry_but_the_batch_size(config, tmp_path):
    suite = suite_from_config(config | {"limit": 5}, root=tmp_path)
    assert suite.described() == {
        "name": "s", "split": "test", "fingerprint": suite.fingerprint(),
        "held_out": ["english"], "limit": 5, "lm_eval": version("lm_eval"),
        "chat_template": None,
        "tasks": {
            "a": {
                "metric": "acc", "kind": "multiple_choice", "score": "raw", "filter": None,
                "num_fewshot": None,
            },
            "b": {
                "metric": "bits_per_byte", "kind": "rolling", "score": "byte_likelihood",
                "filter": None, "num_fewshot": None,
            },
        },
    }  # fmt: skip
    faster = suite_from_config(config | {"limit": 5, "batch_size": 1}, root=tmp_path)
    assert faster.described() == suite.described()


def test_a_reported_task_is_in_no_mean(config, tmp_path):
    tasks = [TASK, BITS | {"score": "reported"}]
    suite = suite_from_config(config | {"tasks": tasks, "held_out": []}, root=tmp_path)
    assert suite.domains == {"a": "code"}
    assert suite.described()["tasks"]["b"]["score"] == "reported"
