"""Errors of the command line: nearest entry, choices, quotes."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from eval.override_errors import explain, known_entries, nearest
from tests.configurations import CONF


def explained(*words):
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises((HydraException, ValueError)) as caught,
    ):
        compose("config", [word for word in words if not word.startswith("-")])
    return explain(caught.value, words, CONF)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lam=2"], "there is no entry lam; did you mean method.lam?"),
        (["method=ties", "method.lambda=1"], "method.lambda; did you mean method.lam?"),
        (["method=ties", "method.tau=1"], "method.tau; did you mean tau?"),
        (["variant=chosen/ties", "densty=1"], "densty; did you mean method.density?"),
        (["suite.limt=2"], "suite.limt; did you mean suite.limit?"),
        (["model=zoo"], "there is no entry model; did you mean models?"),
        (["~method.lamb"], "method.lamb; did you mean method.lam?"),
        (["method.xyzzy=1", "method=average"], "method.xyzzy, only method.weights"),
        (["method=tiess"], "there is no method=tiess, only ace, average, "),
        (["method=tiess"], "did you mean method=ties?"),
        (["suite=zo"], "did you mean suite=zoo?"),
        (["variant=chosen/tie"], "did you mean variant=chosen/ties?"),
        (["models=zo"], "did you mean models=zoo?"),
        (["tracker=wandbb"], "did you mean tracker=wandb?"),
        (
            ["evaluator=hff"],
            "there is no evaluator=hff, only hf, vllm; did you mean evaluator=hf?",
        ),
        (["experiment=papr"], "did you mean experiment=paper?"),
        (["method=ties,dare"], "method=ties,dare has several values: add -m for a sweep"),
        (["tracker=5", "method=ties"], "tracker=5: a group must be a file's name"),
        (["models=null"], "models=null: a group must be a file's name"),
        (["tracker.mode=online"], "tracker.mode; did you mean tracker.wandb.mode?"),
        (["tracker=[wandb,mlflow]", "tracker.url=x"], "did you mean tracker.mlflow.uri?"),
        (["tracker=[wandb,mlfow]"], "did you mean tracker=mlflow?"),
        (
            ["models.pivot=/a b/é"],
            """models.pivot=/a b/é cannot be read: quote its value, 'models.pivot="/a b/é"'""",
        ),
        (
            ["models.sources=[a,~nouser/x]"],
            """cannot be read: quote its value, 'models.sources=["a","~nouser/x"]'""",
        ),
        (["models.pivot=a=b"], """quote its value, 'models.pivot="a=b"'"""),
        (["models.pivot='x"], "cannot be read: a quote, or a letter that needs quotes; quote"),
        (["models.sources=[{a}]"], "cannot be read: no viable alternative at input '[{a}'"),
        (["tau"], "tau cannot be read: missing EQUAL"),
    ],
)
def test_error_is_one_line_with_what_was_probably_meant(words, message):
    explanation = explained(*words)
    assert message in explanation
    assert "\n" not in explanation


def test_a_launcher_that_does_not_exist_is_named_with_those_that_do():
    text = "In 'hydra/config': Could not find 'hydra/launcher/jobli'\n\nAvailable options in 'hydra/launcher':\n\tjoblib\n\tbasic\nConfig search path:\n\tprovider=hydra"
    message = explain(HydraException(text), ["hydra/launcher=jobli"], CONF)
    assert message == (
        "there is no hydra/launcher=jobli, only basic, joblib; did you mean "
        "hydra/launcher=joblib?"
    )


def test_entries_of_a_further_folder_are_known(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("_target_: baselines.mine.merge\nstep: 1\n")
    words = ["method=mine", f"--config-dir={tmp_path}", "stpe=2"]
    error = HydraException("Could not override 'stpe'.")
    assert explain(error, words, CONF).endswith("did you mean method.step?")
    assert "method._target_" not in known_entries(["method=mine"], [tmp_path, CONF])


def test_nearest_prefers_the_same_last_part_and_may_be_none():
    assert nearest("a.tau", ["tau", "method.tau"]) == "tau"
    assert nearest("xyzzy", ["tau", "method.tau"]) is None
