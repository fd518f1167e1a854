"""Merges of LoRA adapters to one LoRA: PEFT's own combinations, the merge to a model, refusals."""

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from baselines import average, task_arithmetic, ties
from seme.adapter_merge import ERRORS_FILE, merge_to_adapter
from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.overrides import parse_overrides
from tests.adapters import ADAPTERS, save_adapter
from tests.settings import SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ADD = functools.partial(task_arithmetic.merge, lam=0.5, weights=[1.0, -2.0])
MEAN = functools.partial(average.merge, weights=None)
TIES = functools.partial(ties.merge, density=0.5, lam=1.0, scope="tensor", trim_ties="exact")


@pytest.fixture
def base(tmp_path, make_llama):
    return make_llama(tmp_path / "base", 0)


@pytest.fixture
def folders(base):
    return [save_adapter(base, n, i, **o) for i, (n, o) in enumerate(ADAPTERS.items())]


def merged(base, folders, method, rank=None, **options):
    """Merge to the folder ``merged``; return it and the report."""
    pivot = open_checkpoint(base, root=base.parent)
    sources = [open_adapter(folder, root=base.parent) for folder in folders]
    settings = replace(SETTINGS, as_adapter=True, adapter_rank=rank, **options)
    report = merge_to_adapter(
        method, pivot, sources, base.parent / "merged", settings=settings, progress=False
    )
    return base.parent / "merged", report


def changes(base, *adapters, weights=None, **combination):
    """Change of every weight, by PEFT: of one adapter, or of its combination of several."""
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), adapters[0], adapter_name="0"
    )
    if weights is not None:
        for i, adapter in enumerate(adapters[1:], 1):
            model.load_adapter(adapter, adapter_name=str(i))
        names = [str(i) for i in range(len(adapters))]
        model.add_weighted_adapter(names, weights, "all", **combination)
        model.set_adapter("all")
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = model.merge_and_unload().state_dict()
    return {name: after[name].double() - before[name].double() for name in before}


def assert_close(first, second, tolerance=2e-6):
    assert first.keys() == second.keys()
    assert any(change.abs().max() > 0.1 for change in first.values())
    for name, change in first.items():
        assert torch.allclose(change, second[name], atol=tolerance, rtol=1e-5), name


def test_a_linear_merge_is_pefts_concatenation(base, folders):
    folder, report = merged(base, folders, ADD)
    oracle = changes(base, *folders, weights=[0.5, -1.0], combination_type="cat")
    assert_close(changes(base, folder), oracle)
    assert report.diagnostics["adapter"] == {"rank": 5, "error": 0.0}
    errors = json.loads((folder / ERRORS_FILE).read_text())["modules"]
    ranks = {module: entry["rank"] for module, entry in errors.items() if ".0." in module}
    prefix = "model.layers.0"
    assert ranks == {
        f"{prefix}.self_attn.q_proj": 5, f"{prefix}.self_attn.v_proj": 3, f"{prefix}.mlp.down_proj": 2
    }  # fmt: skip


def test_an_average_is_pefts_concatenation_with_equal_shares(base, folders):
    folder, _ = merged(base, folders, MEAN)
    oracle = changes(base, *folders, weights=[0.5, 0.5], combination_type="cat")
    assert_close(changes(base, folder), oracle)


def test_an_adapter_opens_here_as_the_merge_to_a_model(base, folders, tmp_path):
    folder, _ = merged(base, folders, ADD)
    pivot = open_checkpoint(base, root=tmp_path)
    sources = [open_adapter(f, root=tmp_path) for f in folders]
    settings = replace(SETTINGS, dtype=torch.float32)
    merge_checkpoints(
        ADD, pivot, sources, tmp_path / "model", settings=settings, progress=False
    )
    model, adapted = (
        open_checkpoint(tmp_path / "model", root=tmp_path),
        open_adapter(folder, root=tmp_path),
    )
    for name in model.names:
        assert torch.allclose(model.read(name), adapted.read(name).float(), atol=1e-6)


def test_truncation_of_a_linear_merge_is_pefts_svd(base, folders):
    folder, report = merged(base, folders, ADD, rank=2)
    oracle = changes(
        base, *folders, weights=[0.5, -1.0], combination_type="svd", svd_rank=2
    )  # fmt: skip
    assert_close(changes(base, folder), oracle, tolerance=1e-4)
    whole = changes(base, *folders, weights=[0.5, -1.0], combination_type="cat")
    ours = changes(base, folder)
    lost = sum(float((whole[n] - ours[n]).square().sum()) for n in whole)
    size = sum(float(change.square().sum()) for change in whole.values())
    assert report.diagnostics["adapter"]["rank"] == 2
    assert report.diagnostics["adapter"]["error"] == pytest.approx(
        (lost / size) ** 0.5, rel=1e-4
    )
    assert report.diagnostics["adapter"]["error"] > 0.01


def test_pefts_linear_adds_factors_and_is_another_merge(base):
    """(B1 + B2)(A1 + A2) has the cross terms B1 A2 and B2 A1, which no merge of models has."""
    alike = [save_adapter(base, f"alike{i}", i + 5, **ADAPTERS["first"]) for i in range(2)]
    folder, _ = merged(base, alike, MEAN)
    ours = changes(base, folder)
    linear = changes(base, *alike, weights=[0.5, 0.5], combination_type="linear")
    assert max(float((ours[n] - linear[n]).abs().max()) for n in ours) > 0.1


def test_a_method_that_is_not_linear_is_approximated_better_by_a_higher_rank(
    base, folders, tmp_path
):
    pivot = open_checkpoint(base, root=tmp_path)
    sources = [open_adapter(folder, root=tmp_path) for folder in folders]
    settings = replace(SETTINGS, dtype=torch.float32)
    merge_checkpoints(
        TIES, pivot, sources, tmp_path / "model", settings=settings, progress=False
    )
    whole = open_checkpoint(tmp_path / "model", root=tmp_path)
    errors = []
    for rank in (1, 6):
        folder, report = merged(base, folders, TIES, rank=rank)
        adapted = open_adapter(folder, root=tmp_path)
        lost = sum(float((whole.read(n) - adapted.read(n)).square().sum()) for n in whole.names)
        size = sum(float((whole.read(n) - pivot.read(n)).square().sum()) for n in whole.names)
        errors.append(report.diagnostics["adapter"]["error"])
        assert errors[-1] == pytest.approx((lost / size) ** 0.5, rel=1e-4)
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {rank}
        shutil.rmtree(folder)
    assert 0 < errors[1] < errors[0] < 1


def test_overrides_and_exclusions_hold_by_tensor(base, folders):
    overrides = parse_overrides([{"match": "*.q_proj.*", "lam": 0.0}])
    folder, _ = merged(base, folders, ADD, overrides=overrides, exclude=("*.v_proj.*",))
    ours = changes(base, folder)
    assert not any(
        change.abs().max() > 0 for n, change in ours.items() if "q_proj" in n or "v_proj" in n
    )
    oracle = changes(base, *folders, weights=[0.5, -1.0], combination_type="cat")
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.allclose(ours[name], oracle[name], atol=2e-6)


def test_patterns_that_leave_nothing_to_merge_are_refused(base, folders):
    only_norms = {"include": ("*norm*",)}
    for rank in (None, 2):
        with pytest.raises(
            ValueError, match=r"leave out all \d+ weights .* nothing would be merged"
        ):
            merged(base, folders, ADD, rank, **only_norms)
        assert not (base.parent / "merged").exists()


def test_an_adapter_that_names_another_base_is_warned_of(base, folders, caplog):
    pivot = open_checkpoint(base, root=base.parent)
    sources = [open_adapter(f, root=base.parent) for f in folders]
    sources[0].other_base = "the adapter was trained on org/other"
    settings = replace(SETTINGS, as_adapter=True)
    report = merge_to_adapter(
        ADD, pivot, sources, base.parent / "merged", settings=settings, progress=False
    )
    (warning,) = report.warnings
    assert warning.endswith(": the adapter was trained on org/other")
    assert warning in caplog.text


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [
        (TIES, None, r"merged_as=adapter needs adapter_rank=RANK for baselines\.ties"),
        (ADD, 10_000, r"adapter_rank must be from 1 to \d+, the smaller side of model\.layers"),
    ],
)
def test_a_rank_that_is_missing_or_out_of_range_is_refused(
    base, folders, method, rank, message
):
    with pytest.raises(ValueError, match=message):
        merged(base, folders, method, rank)
    assert not (base.parent / "merged").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, r"source 1 .* changes lm_head\.weight \(modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, r"changes model\.embed_tokens\.weight"),
        ({"use_dora": True}, "source 1 is a DoRA adapter"),
    ],
)  # fmt: skip
def test_what_one_lora_cannot_hold_is_refused(base, folders, options, message):
    other = save_adapter(base, "other", 3, **(ADAPTERS["first"] | options))
    with pytest.raises(ValueError, match=message):
        merged(base, [folders[0], other], ADD)


def test_a_model_among_the_sources_is_refused(base, folders):
    pivot = open_checkpoint(base, root=base.parent)
    sources = [open_adapter(folders[0], root=base.parent), pivot]
    with pytest.raises(
        ValueError, match=r"source 1 .* is a model of its own: write sources as"
    ):
        merge_to_adapter(
            ADD, pivot, sources, base.parent / "merged",
            settings=replace(SETTINGS, as_adapter=True), progress=False,
        )  # fmt: skip


@pytest.mark.slow
def test_the_command_keeps_an_adapter_with_card_and_manifest(base, folders, tmp_path):
    command = [
        sys.executable, "run.py", "method=ties", "models=custom", f"models.pivot={base}",
        f"models.sources=[{','.join('{path_to_adapter: ' + str(f) + '}' for f in folders)}]",
        "suite=none", "tracker=none", f"output={tmp_path / 'results'}", "merged_as=adapter",
        "adapter_rank=2", f"merged_dir={tmp_path / 'kept'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    card = (tmp_path / "kept" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "rank 2: `||change - B A|| / ||change||` is 0." in card
    verify = [sys.executable, "-m", "scripts.verify", str(tmp_path / "kept"), "rederive=true"]
    subprocess.run(verify, check=True, capture_output=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert PeftModel.from_pretrained(model, tmp_path / "kept").peft_config["default"].r == 2
