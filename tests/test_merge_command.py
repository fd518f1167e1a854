"""Command lines and calls of merges: what Hydra and Python read back is what was written."""

import shlex

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import seme
from seme.publishing.command import language_of, merge_call, merge_command


def test_command_composes_to_the_run_it_was_made_from(repository):
    adapter = {"path_to_adapter": "org/lora", "adapter_revision": "1", "location": "org/base"}
    method = {
        "_target_": "seme.method.merge", "_partial_": True, "tau": 0.3, "lam": 1e-05,
        "alignment": {"refine": 2},
    }  # fmt: skip
    settings = {
        "seed": 3, "dtype": "float16", "include": ["*"], "exclude": ["*.mlp.*"], "tokens": "by_id",
        "max_shard_size": "1MB",
    }  # fmt: skip
    command = merge_command(
        method="seme",
        config=method,
        settings=settings,
        pivot={"location": "org/base", "revision": "abc"},
        sources=[{"location": "my models/a"}, adapter],
        merged_dir="out dir",
    )
    program, script, *overrides = shlex.split(command)
    assert (program, script) == ("python", "run.py")
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    assert {key: config[key] for key in settings} == settings
    assert config["method"]["tau"] == 0.3
    assert config["method"]["lam"] == 1e-05
    assert config["method"]["alignment"]["refine"] == 2
    assert config["models"]["pivot"] == {"location": "org/base", "revision": "abc"}
    assert config["models"]["sources"] == ["my models/a", adapter]
    assert config["merged_dir"] == "out dir"
    assert config["suite"]["name"] == "none"
    assert "include" not in command
    assert language_of(command) == "bash"


def test_call_is_python_that_gives_the_arguments_back(monkeypatch):
    adapter = {"path_to_adapter": "org/lora", "adapter_revision": "1"}
    method = {
        "_target_": "baselines.x.merge", "_partial_": True, "lam": 1e-05, "most": float("inf"),
        "alignment": {"refine": 2, "least": [float("-inf"), None, True, "it's"]},
    }  # fmt: skip
    call = merge_call(
        method="x",
        config=method,
        settings={"seed": 3, "dtype": None, "include": ["*"], "adapter_rank": 4},
        pivot={"location": "org/base", "revision": "abc"},
        sources=[{"location": "my models/a"}, adapter],
        merged_dir="out dir",
    )
    given = {}
    monkeypatch.setattr(seme, "merge", lambda *a, **k: given.update(k, method=a), raising=False)
    exec(call, {})
    assert given == {
        "method": ("x",), "pivot": {"location": "org/base", "revision": "abc"},
        "sources": ["my models/a", adapter], "out": "out dir", "lam": 1e-05, "most": float("inf"),
        "alignment": {"refine": 2, "least": [float("-inf"), None, True, "it's"]}, "seed": 3,
        "adapter_rank": 4,
    }  # fmt: skip
    assert "\n" not in call
    assert language_of(call) == "python"
