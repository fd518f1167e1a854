"""Every file in conf/ composes and instantiates; a typo stops before weights are read."""

import importlib
import inspect

import pytest
import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException

import seme.job
from eval.suite import suite_from_config
from seme.binding import check_method, hyper_parameter_names
from seme.interface import traits_of
from seme_bench.cell import run_cell
from seme_bench.entries import check_entries
from tests.configurations import CONF, assembled, composed
from tests.golden_merges import method_of

FILES = sorted(
    path.relative_to(CONF).with_name(path.name.removesuffix(".yaml"))
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)
METHODS = [path.name for path in FILES if path.parent.name == "method"]
CUSTOM = ["models=custom", "models.pivot=a", "models.sources=[b]"]
STUDIES = ("llama_3_1_8b", "llama_3_2_3b", "qwen3_4b", "qwen3_8b")
TO_GIVE = {
    "models/custom": CUSTOM[1:],
    "suite/tasks": ["suite.tasks=[gsm8k]"],
    **{f"models/systematic_study_{study}": CUSTOM[2:] for study in STUDIES},
}
"""Overrides that a file demands."""


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parts[0] not in ("experiment", "variant")], ids=str
)  # test_experiments.py has the others
def test_every_config_file_composes(file):
    group, _, choice = file.as_posix().partition("/")
    if group == "hydra":  # hydra/launcher=NAME
        group, _, choice = file.as_posix().rpartition("/")
    check_entries(composed(f"{group}={choice}", *TO_GIVE.get(file.as_posix(), [])))


def test_config_groups_are_known():
    groups = {path.parts[0] for path in FILES}
    assert groups - {"experiment", "variant"} == {
        "hydra",
        "method",
        "models",
        "suite",
        "evaluator",
        "tracker",
    }


@pytest.mark.parametrize("name", METHODS)
def test_method_config_matches_module_name_and_signature(name):
    config = assembled(f"method={name}")["method"]
    module, function = config["_target_"].rsplit(".", 1)
    assert module == ("seme.method" if name == "seme" else f"baselines.{name}")
    merge = getattr(importlib.import_module(module), function)
    assert config.keys() - {"_target_", "_partial_"} == hyper_parameter_names(merge)
    for part in (merge, traits_of(merge).preparation):
        parameters = inspect.signature(part).parameters.values() if part else ()
        assert all(p.default is p.empty for p in parameters)  # defaults are in the file alone
    check_method(method_of(name), n_sources=traits_of(merge).min_sources)


def test_tau_sets_the_density_of_every_sparsifying_method():
    configs = {name: assembled(f"method={name}", "tau=0.37")["method"] for name in METHODS}
    fed = {
        (name, k) for name, config in configs.items() for k, v in config.items() if v == 0.37
    }
    assert fed == {
        ("seme", "tau"), ("sce", "tau"), ("ties", "density"), ("dare", "density"),
        ("dare_ties", "density"), ("breadcrumbs", "density"), ("della", "density"),
        ("localize", "density"), ("cabs", "density"),
    }  # fmt: skip


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] == "suite"], ids=str)
def test_every_suite_config_is_buildable(file, repository):
    config = composed(f"suite={file.name}", *TO_GIVE.get(file.as_posix(), []))
    config["suite"].setdefault("name", file.name)  # as run.py does
    suite = suite_from_config(config["suite"], root=repository)
    assert (suite is None) == (file.name == "none")
    assert suite is None or suite.name == file.name


def test_options_of_a_suite_are_set_on_the_command_line(repository):
    given = {
        "chat_template": "rag", "system_instruction": "Be brief.", "num_fewshot": 3,
        "fewshot_as_multiturn": False, "gen_kwargs": "{max_gen_toks: 8, until: [a]}",
        "max_length": 99, "batch_size": "'512 tokens'", "dtype": "bfloat16",
        "allow_code_execution": True,
    }  # fmt: skip
    config = composed("suite=zoo", *(f"suite.{key}={value}" for key, value in given.items()))
    suite = suite_from_config(config["suite"], root=repository)
    assert suite.options() == {
        "chat_template": "rag", "system_instruction": "Be brief.", "num_fewshot": 3,
        "fewshot_as_multiturn": False, "gen_kwargs": {"max_gen_toks": 8, "until": ["a"]},
        "max_length": 99, "dtype": "bfloat16",
    }  # fmt: skip
    assert (suite.batch_size, suite.allow_code_execution) == ("512 tokens", True)


def test_validation_suite_differs_only_in_name_and_split():
    test, validation = (composed(f"suite={s}")["suite"] for s in ("zoo", "zoo_validation"))
    assert {k for k in test if test[k] != validation[k]} == {"name", "split"}


@pytest.mark.parametrize("group", ["method", "models", "suite", "evaluator", "tracker"])
def test_unknown_choice_lists_the_available_ones(group):
    with pytest.raises(MissingConfigException, match=f"'{group}'") as caught:
        composed(f"{group}=averge")
    expected = [path.name for path in FILES if path.parts[0] == group]
    assert all(name in str(caught.value) for name in expected)


@pytest.mark.parametrize("key", ["tua", "method.densty", "models.source", "tracker.mdoe"])
def test_a_mistyped_override_is_refused(key):
    with pytest.raises(ConfigCompositionException, match=f"Could not override '{key}'"):
        composed("method=ties", f"{key}=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+tua=0.1", r"there is no entry tua; did you mean tau\?"),
        ("+method.densty=1", "no parameter densty.*did you mean density?"),
        ("+models.source=[]", "a pool of models has"),
        ("+suite.lmit=1", r"unknown keys \['lmit'\]"),
        ("tau=abc", "tau must be in .*got 'abc'"),
        ("force=maybe", "force must be true or false, got 'maybe'"),
        ("method._target_=os.system", "a method's _target_ is in .*got os.system"),
        ("method.lam=inf", "lam must be a finite number, got inf"),
        ("method.density=1.5", r"density must be in \(0, 1\], got 1.5"),
        ("+method.x={_target_:os.system}", "has no parameter x"),
        ("method._target_=baselines.tiess.merge", "baselines.tiess.merge does not exist"),
    ],
)
def test_invalid_config_stops_before_a_model_is_opened(override, message, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(seme.job, "open_named", refuse)
    with pytest.raises(ValueError, match=message):
        run_cell(
            composed("method=ties", *CUSTOM, override),
            method_name="ties",
            group="g",
            label="ties",
            root=CONF.parent,
        )


def test_every_config_file_begins_with_a_comment():
    for path in CONF.rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert isinstance(yaml.safe_load(path.read_text()), dict)
