"""Merged bytes of every method, held by tests/golden.json; see tests/golden_merges.py."""

import copy
import json
from functools import partial

import pytest

import seme.elementwise
from seme.kernels import arithmetic
from seme.provenance import NUMBERS_VERSION
from tests import golden_merges
from tests.configurations import CONF
from tests.golden_merges import (
    N_PROJECTIONS,
    RENEW,
    TOLERANCE,
    advice,
    all_entries,
    changed,
    changed_inputs,
    entries,
    inputs_of,
    method_names,
    method_of,
    pools_for,
    read_golden,
    renewed,
    without_entry,
)
from tests.golden_pools import POOLS, write_pool


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return {name: write_pool(name, folder) for name in POOLS}


@pytest.fixture(scope="module")
def golden():
    return read_golden()


def with_settings(name, **settings):
    """A method with some hyper-parameters replaced."""
    method = method_of(name)
    return partial(method.func, **{**method.keywords, **settings})


def faults_of(golden, name, pool, tensors):
    return changed(golden["merges"], {name: {pool: tensors}})


def test_golden_file_has_this_version_and_every_method_and_pool(golden):
    assert golden["numbers_version"] == NUMBERS_VERSION, advice(golden)
    faults = without_entry(golden, method_names())
    assert not faults, "\n".join(faults)
    assert golden["inputs"].keys() == POOLS.keys(), f"pools have come or gone: run {RENEW}"
    for name, of_pools in golden["merges"].items():
        assert of_pools.keys() == set(pools_for(method_of(name))), f"{name}: run {RENEW}"


def test_pools_match_the_golden_inputs(golden, pools):
    faults = changed_inputs(golden, inputs_of(pools))
    assert not faults, "\n".join(faults)


def test_merged_bytes_equal_the_golden_file(golden, pools):
    faults = changed(golden["merges"], all_entries(pools, n_threads=1))
    assert not faults, "\n".join([*faults, advice(golden)])


@pytest.mark.slow  # threads: see test_method_contract.py
def test_golden_file_is_reproduced_on_two_threads(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(golden_merges, "GOLDEN", tmp_path / "golden.json")
    golden_merges.main()
    anew = json.loads((tmp_path / "golden.json").read_text())
    assert anew.keys() == golden.keys()
    assert anew["inputs"] == golden["inputs"]
    faults = changed(golden["merges"], anew["merges"])
    assert not faults, "\n".join([*faults, advice(golden)])


def test_torch_path_has_the_golden_bytes(golden, pools, in_torch):
    in_torch()
    faults = changed(golden["merges"], all_entries(pools))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", ["task_arithmetic", "dare", "ties", "sce", "seme"])
def test_golden_test_detects_a_changed_scale(name, golden, pools):
    for pool in golden["merges"][name].keys() & {"float32", "turned", "turned_tied"}:
        lam = method_of(name).keywords["lam"] * 0.99
        tensors = entries(pool, with_settings(name, lam=lam), pools[pool])
        (fault,) = faults_of(golden, name, pool, tensors)
        assert fault.startswith(f"{name} on {pool}: ")
        assert ".weight differs" in fault


def test_golden_test_detects_one_more_selected_element(golden, pools):
    tensors = entries("turned", with_settings("seme", tau=0.102), pools["turned"])
    q_proj = "model.layers.0.self_attn.q_proj.weight"  # 26 of 256 elements in both cases
    embedding = "model.embed_tokens.weight"  # 261 of 2560 instead of 256
    stored = golden["merges"]["seme"]["turned"]
    assert tensors[q_proj] == pytest.approx(stored[q_proj], abs=TOLERANCE)
    assert tensors[embedding] != pytest.approx(stored[embedding], abs=TOLERANCE)


def test_golden_test_detects_a_changed_kernel(golden, pools, monkeypatch):
    def erase_nothing(pivot, sources, weights, scale, kept, _divide):
        merged = arithmetic.add_weighted(pivot, sources, weights, scale, kept)
        return merged, 0, 0

    monkeypatch.setattr(seme.elementwise.arithmetic, "add_signed", erase_nothing)
    faults = changed(golden["merges"], all_entries({"float16": pools["float16"]}))
    methods = [fault.partition(" on float16: ")[0] for fault in faults]
    assert {"dare_ties", "sce", "seme", "ties"} <= set(methods)
    assert not {"average", "task_arithmetic", "dare", "slerp"} & set(methods)


def test_method_without_golden_entry_is_reported(golden, tmp_path):
    (tmp_path / "method").mkdir()
    for path in [*(CONF / "method").glob("*.yaml"), tmp_path / "mine.yaml"]:
        (tmp_path / "method" / path.name).write_text("# a method\n")
    (fault,) = without_entry(golden, method_names(tmp_path))
    assert "conf/method/mine.yaml" in fault
    assert RENEW in fault
    (tmp_path / "method" / "mine.yaml").unlink()
    (tmp_path / "method" / "ties.yaml").unlink()
    (fault,) = without_entry(golden, method_names(tmp_path))
    assert "entry ties" in fault


def test_other_numbers_version_asks_for_renewal(golden):
    other = {**golden, "numbers_version": NUMBERS_VERSION + 1}
    assert advice(other).endswith(f"run {RENEW}")
    assert "bug" in advice(golden)
    assert "bug" not in advice(other)


def test_renewal_replaces_entries_only_with_a_raised_version(golden):
    fresh = copy.deepcopy(golden)
    fresh["merges"]["ties"]["float16"]["lm_head.weight"] = "0"
    with pytest.raises(SystemExit, match=r"ties on float16: lm_head.weight differs, 1 in all"):
        renewed(golden, fresh)
    raised = {**fresh, "numbers_version": NUMBERS_VERSION + 1}
    assert renewed(golden, raised) == raised
    other = {**golden, "inputs": {**golden["inputs"], "float16": "0"}}
    with pytest.raises(SystemExit, match="the weights of pool float16"):
        renewed(golden, other)


def test_renewal_adds_methods_and_keeps_entries_within_tolerance(golden):
    fresh = copy.deepcopy(golden)
    fresh["merges"]["mine"] = {"float16": {"lm_head.weight": "0"}}
    turned = fresh["merges"]["seme"]["turned"]
    turned["lm_head.weight"] = [value + TOLERANCE / 2 for value in turned["lm_head.weight"]]
    kept = renewed(golden, fresh)["merges"]
    assert kept == {**golden["merges"], "mine": fresh["merges"]["mine"]}
    assert len(turned["lm_head.weight"]) == N_PROJECTIONS
