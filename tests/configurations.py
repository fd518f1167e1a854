"""Configurations as runs get them."""

import json
import shlex
from functools import cache
from itertools import product
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from seme.binding import bind_method, method_settings

CONF = Path(__file__).resolve().parents[1] / "conf"
_RUN = ("method", "models", "suite", "seed", "dtype", "overrides")


def composed(*overrides, conf=CONF):
    """The configuration of one run, in plain values."""
    return _plain(_composed(tuple(map(str, overrides)), conf))


def assembled(*overrides, conf=CONF):
    """Assemble a configuration from files composed once: choices of groups, variants, values.

    Values are of entries that are there. Hydra composes each file of a group once, and none of a
    method; what the overrides change is put in its place, as Hydra would (test_experiments.py
    compares).
    """
    return _plain(_changed(_composed((), conf), overrides, conf))


def cells_of(experiment, conf=CONF):
    """Overrides to configuration, for every cell of an experiment's sweep and commands.

    Assembled like the others, from the experiment's own configuration.
    """
    base = _composed((f"experiment={experiment}",), conf)
    cells = [*_sweep(experiment, conf), *_commanded(experiment, conf)]
    return {overrides: _plain(_changed(base, overrides, conf)) for overrides in cells}


def settings_of(config):
    """The hyper-parameters of a run's method, as a record has them."""
    return method_settings(bind_method(config["method"]))


def identity_of(config):
    """What two cells must share to be one run."""
    return json.dumps([config[key] for key in _RUN])


@cache
def _composed(overrides, conf):
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(overrides))


def _changed(base, overrides, conf):
    """A copy of a configuration with the groups, variants and values of a cell."""
    chosen = [override.split("=", 1) for override in overrides]
    files = {key for key, _ in chosen if key in _groups(conf)}
    names = [n for key, choice in chosen if key == "variant" for n in _names_in(choice)]
    variants = [_variant(name, conf) for name in names]
    groups = {group: choice for of_variant, _ in variants for group, choice in of_variant}
    groups |= {key: choice for key, choice in chosen if key in files}
    config = base.copy()
    OmegaConf.set_struct(config, False)  # a variant may give what a method's file leaves out
    for group, choice in groups.items():
        config[group] = _of_group(group, choice, conf)
    config.merge_with(*(values for _, values in variants))
    for key, value in chosen:
        if key not in files | {"variant"}:
            OmegaConf.update(config, key, _value(f"{key}={value}"))
    return config


def _groups(conf):
    return {path.name for path in conf.iterdir() if path.is_dir()} - {"variant", "experiment"}


@cache
def _value(override):
    """The value that Hydra reads in an override, in plain values."""
    return OverridesParser.create().parse_override(override).value()


def _names_in(choice):
    return [name.strip() for name in choice.strip("[]").split(",")]


@cache
def _of_group(group, choice, conf):
    if group == "method":  # such a file is all that there is of the group
        return OmegaConf.load(conf / group / f"{choice}.yaml")
    return _composed((f"{group}={choice}",), conf)[group]


@cache
def _variant(name, conf):
    """Groups and their choices that a variant's file sets, and its values."""
    values = yaml.safe_load((conf / "variant" / f"{name}.yaml").read_text())
    chosen = [entry for default in values.pop("defaults", []) for entry in default.items()]
    return [(group.removeprefix("override /"), choice) for group, choice in chosen], values


def _plain(config):
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _sweep(experiment, conf):
    """Cells of the sweep that the experiment's file holds; none without one."""
    text = (conf / "experiment" / f"{experiment}.yaml").read_text()
    sweeper = yaml.safe_load(text).get("hydra", {"sweeper": {"params": {}}})["sweeper"]
    params = [f"{key}={value}" for key, value in sweeper["params"].items()]
    return _combinations(params) if params else []


def _commanded(experiment, conf):
    """Cells of the commands in the header that say more than the experiment."""
    text = (conf / "experiment" / f"{experiment}.yaml").read_text()
    start = f"# python run.py -m experiment={experiment} "
    lines = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
    return [cell for line in lines for cell in _combinations(shlex.split(line))]


def _combinations(arguments):
    """Hydra's own reading of the arguments of a sweep, every combination of their choices."""
    choices = [
        [
            f"{override.get_key_element()}={choice}"
            for choice in (
                override.sweep_string_iterator()
                if override.is_sweep_override()
                else [override.get_value_element_as_str()]
            )
        ]
        for override in OverridesParser.create().parse_overrides(arguments)
    ]
    return list(product(*choices))
