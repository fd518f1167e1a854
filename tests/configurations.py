"""Configurations as runs get them."""

import json
import shlex
from functools import cache, partial
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
    return _plain(_composed(overrides, conf))


def cells_of(experiment, conf=CONF):
    """Overrides to configuration, for every cell of an experiment's sweep.

    Composing is slow: each variant and each pool is composed once, and tau is but a number.
    Cells of further commands in the header follow: their files are composed once, too.
    """
    compose_once = cache(partial(_composed, conf=conf))
    configs = {}
    for overrides in _sweep(experiment, conf):
        chosen = dict(override.split("=", 1) for override in overrides)
        variant = f"variant={chosen.pop('variant')}"
        config = compose_once((f"experiment={experiment}", variant)).copy()
        for key, choice in chosen.items():
            alone = compose_once((f"experiment={experiment}", f"{key}={choice}"))
            config[key] = alone[key]
        configs[overrides] = _plain(config)
    for overrides in _commanded(experiment, conf):
        chosen = [override.split("=", 1) for override in overrides]
        files = tuple(f"{k}={v}" for k, v in chosen if k in ("method", "models", "variant"))
        config = compose_once((f"experiment={experiment}", *files)).copy()
        for key, value in chosen:
            if f"{key}={value}" not in files:
                OmegaConf.update(config, key, yaml.safe_load(value))
        configs[overrides] = _plain(config)
    return configs


def settings_of(config):
    """The hyper-parameters of a run's method, as a record has them."""
    return method_settings(bind_method(config["method"]))


def identity_of(config):
    """What two cells must share to be one run."""
    return json.dumps([config[key] for key in _RUN])


def _composed(overrides, conf):
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", [str(override) for override in overrides])


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
