"""Engine: checks before a merge, method inputs, merged output, refusals without leftovers."""

import functools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from seme.checkpoint.lora import open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.interface import CheckpointMismatchError, Site, prepared_by
from seme.method import merge as seme_merge
from tests.adapters import pair, write_adapter
from tests.seme_merges import SETTINGS as SEME


def mean(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    return torch.stack(tuple(sources)).mean(dim=0)


def step(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    return pivot + lam * (sources[0] - pivot)


def noise(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /) -> Tensor:
    return pivot + site.bernoulli_mask(1, pivot.shape, 0.5)[0]


class Norms:
    def __init__(self, norms):
        self.norms = norms

    def at(self, tensor):
        return self.norms[tensor.name]

    def diagnostics(self):
        return {"norms": self.norms}


def source_sums(models, /, *, lam):
    def summed(tensor):
        return sum(tensor.map(lambda block: block.sources[0].sum().item()))

    return Norms({name: lam * summed(models.open(name)) for name in models.merged_names})


@prepared_by(source_sums)
def fill(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    return torch.full_like(pivot, site.prepared + lam)


def bound(function, **settings):
    return functools.partial(function, **settings)


def test_merge_report_counts_tensors_and_bytes(model, merge):
    pivot = model("p", {"a": [0.0, 0.0], "b": [[1.0]]})
    one, two = (
        model("1", {"a": [1.0, 2.0], "b": [[3.0]]}),
        model("2", {"a": [3.0, 6.0], "b": [[5.0]]}),
    )
    merged, report = merge(bound(mean), pivot, one, two)
    assert merged["a"].tolist() == [2.0, 4.0]
    assert merged["b"].tolist() == [[4.0]]
    assert (report.n_merged, report.n_parameters, report.copied) == (2, 3, {})
    assert (report.bytes_read, report.bytes_written) == (3 * 12, 12)
    assert (report.rounding_loss, report.diagnostics) == (0.0, {})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_method_gets_float32_and_output_has_the_pivot_dtype(model, merge, dtype):
    def spy(pivot, sources, _site, /):
        assert {t.dtype for t in (pivot, *sources)} == {torch.float32}
        return sources[0]

    source = model("s", {"a": torch.tensor([0.5, 1.0], dtype=dtype)})
    merged, _ = merge(
        bound(spy), model("p", {"a": torch.zeros(2, dtype=torch.float16)}), source
    )
    assert merged["a"].dtype == torch.float16
    assert merged["a"].tolist() == [0.5, 1.0]


def test_result_is_rounded_once_with_reported_loss(model, merge):
    # exact 257 lies between bfloat16's 256 and 258: 1 of a change of 257 - 256 = 1 is lost
    pivot = model("p", {"a": torch.tensor([256.0]).bfloat16()})
    merged, report = merge(bound(step, lam=0.5), pivot, model("s", {"a": [258.0]}))
    assert merged["a"].tolist() == [256.0]
    assert report.rounding_loss == 1.0


def test_random_masks_depend_only_on_seed_and_tensor_name(model, merge):
    pivot = model("p", {name: torch.zeros(4) for name in "abc"})
    everything, _ = merge(bound(noise), pivot, pivot, folder="1")
    alone, _ = merge(bound(noise), pivot, pivot, folder="2", include=["c"])
    reseeded, _ = merge(bound(noise), pivot, pivot, folder="3", seed=1)
    assert torch.equal(everything["c"], alone["c"])
    assert not torch.equal(everything["c"], everything["b"])
    assert not torch.equal(everything["c"], reseeded["c"])


def test_site_carries_the_prepared_values(model, merge):
    source = model("s", {"a": [1.0, 2.0], "b": [4.0]})
    merged, report = merge(
        bound(fill, lam=2.0), model("p", {"a": [0.0, 0.0], "b": [0.0]}), source
    )
    assert merged["a"].tolist() == [2 * 3.0 + 2.0] * 2
    assert report.diagnostics == {"norms": {"a": 6.0, "b": 8.0}}
    assert report.bytes_read == 2 * (12 + 12)


def test_unmerged_tensors_are_copied_from_the_pivot_with_a_reason(model, merge):
    ones = {name: torch.ones(1) for name in ("a.weight", "a.bias", "b.weight")}
    pivot = model("p", {**ones, "n": torch.tensor(3), "on": torch.tensor(True)})
    source = model(
        "s",
        {
            **{n: v * 5 for n, v in ones.items()},
            "n": torch.tensor(4),
            "on": torch.tensor(False),
        },
    )
    merged, report = merge(bound(mean), pivot, source, include=["*.weight"], exclude=["b.*"])
    assert {name: value.item() for name, value in merged.items()} == {
        "a.bias": 1.0,
        "a.weight": 5.0,
        "b.weight": 1.0,
        "n": 3,
        "on": True,
    }
    assert report.copied == {
        "a.bias": "not matched by include",
        "b.weight": "excluded by b.*",
        "n": "not floating point (int64)",
        "on": "not floating point (bool)",
    }


def test_tied_lm_head_is_written_once(model, merge):
    tied = '{"tie_word_embeddings": true}'
    weights = {"embed_tokens.weight": torch.ones(2, 2)}
    pivot = model("p", {**weights, "lm_head.weight": torch.ones(2, 2)}, tied)
    merged, report = merge(bound(mean), pivot, model("s", weights, tied))
    assert list(merged) == ["embed_tokens.weight"]
    assert report.copied == {
        "lm_head.weight": "tied to embed_tokens.weight, which is written once"
    }
    compared, merged_bytes = 16 + 16, 16 + 16  # head and embedding; pivot and source
    assert report.bytes_read == compared + merged_bytes


def test_output_dtype_applies_to_all_tensors_and_the_config(model, merge, tmp_path):
    pivot = model("p", {"a": [1.0], "b": [1.0], "n": torch.tensor(1)}, '{"dtype": "float32"}')
    merged, _ = merge(bound(mean), pivot, pivot, dtype=torch.bfloat16, exclude=["b"])
    assert [merged[name].dtype for name in "abn"] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.int64,
    ]
    assert json.loads((tmp_path / "merged/config.json").read_text()) == {"dtype": "bfloat16"}


class Unreported:
    def at(self, _tensor):
        return 1.0

    def diagnostics(self):
        return None


@prepared_by(lambda _models, /: Unreported())
def fill_unreported(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /) -> Tensor:
    return torch.full_like(pivot, site.prepared)


@pytest.mark.parametrize("pattern", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(model, merge, pattern):
    pivot = model("p", {"a.weight": [1.0]})
    with pytest.raises(ValueError, match=r"'a\.wieght' matches no tensor.*a\.weight"):
        merge(bound(mean), pivot, pivot, **{pattern: ["a.wieght"]})


def test_excluding_every_tensor_is_refused(model, merge):
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match=r"no tensor of .* is left to merge"):
        merge(bound(mean), pivot, pivot, exclude=["*"])


MISFITS = {
    r"a: shape \(2,\) expected, missing in the source": {"b": [1.0]},
    r"c: shape \(1,\) found, missing in the pivot": {"a": [1.0, 1.0], "b": [1.0], "c": [1.0]},
    r"a: shape \(2,\) expected, \(2, 1\) found": {"a": [[1.0], [1.0]], "b": [1.0]},
    r"b: torch\.float32 expected, torch\.int64 found": {"a": [1.0, 1.0], "b": [1]},
}


@pytest.mark.parametrize("message", MISFITS)
def test_mismatched_source_is_refused_with_its_tensors(model, merge, tmp_path, message):
    pivot, fits = (
        model("p", {"a": [0.0, 0.0], "b": [0.0]}),
        model("s", {"a": [1.0, 1.0], "b": [1.0]}),
    )
    misfit = model("m", MISFITS[message])
    with pytest.raises(
        CheckpointMismatchError, match=rf"source 1 .*/m\).*\n  {message}"
    ) as error:
        merge(bound(mean), pivot, fits, misfit)
    assert "needs sources of the pivot's shape" in str(error.value)
    assert pivot.bytes_read + fits.bytes_read + misfit.bytes_read == 0
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("n_misfits", "rest"), [(5, ""), (9, "\n  and 4 more")])
def test_first_five_mismatches_are_listed(model, merge, n_misfits, rest):
    names = [f"t{i}" for i in range(n_misfits)]
    pivot = model("p", {name: [1.0] for name in names})
    source = model("s", {name: [1.0, 1.0] for name in names})
    with pytest.raises(CheckpointMismatchError, match=r"t0: ") as error:
        merge(bound(mean), pivot, source)
    last = "t4: shape (1,) expected, (2,) found"
    assert str(error.value).endswith(f"{last}{rest}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_source_is_refused_and_leaves_no_files(model, merge, tmp_path, value):
    pivot, sick = model("p", {"a": [1.0], "b": [1.0]}), model("s", {"a": [1.0], "b": [value]})
    with pytest.raises(ValueError, match=r"b of source 1 \(.*/s\).* NaN") as error:
        merge(bound(mean), pivot, pivot, sick)
    assert error.value.__notes__ == ["while merging b with shape (1,)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "s"]


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_excluded_tensors_are_copied_unchecked(model, merge, value):
    pivot = model("p", {"a": [1.0], "b": [value]})
    merged, _ = merge(bound(mean), pivot, pivot, exclude=["b"])
    assert merged["b"].isfinite().item() is False


def test_excluded_tensors_need_not_be_in_a_source(model, merge):
    pivot = model("p", {"a": [1.0], "b": [2.0], "c": [3.0]})
    source = model("s", {"a": [3.0], "c": [[1.0]], "bb": [1.0]})
    merged, _ = merge(bound(mean), pivot, source, exclude=["b*", "c"])
    assert [merged[name].item() for name in "abc"] == [3.0, 2.0, 3.0]


CONSTANTS = {
    "h.0.attn.masked_bias": torch.tensor(-float("inf"), dtype=torch.float16),
    "h.0.attn.bias": torch.ones(1, 1, 2, 2),
    "h.0.rotary_emb.inv_freq": torch.tensor([1.0, 0.1]),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("holder", ["pivot", "source", "both"])
def test_constants_are_the_pivots_bytes_and_may_be_absent(model, merge, dtype, holder):
    pivot = model("p", {"a": [1.0], **(CONSTANTS if holder != "source" else {})})
    source = model("s", {"a": [3.0], **(CONSTANTS if holder != "pivot" else {})})
    merged, report = merge(bound(mean), pivot, source, dtype=dtype)
    assert merged["a"].item() == 3.0
    kept = {} if holder == "source" else CONSTANTS
    assert report.copied == dict.fromkeys(kept, "constant")
    assert merged.keys() - {"a"} == kept.keys()
    assert all(
        merged[n].dtype == v.dtype and torch.equal(merged[n], v) for n, v in kept.items()
    )


def test_names_without_an_optional_prefix_are_the_same_names(model, merge):
    names = ("h.0.ln_1.weight", "wte.weight")
    bare = {name: [1.0, 2.0] for name in names}
    full = {f"transformer.{name}": [3.0, 4.0] for name in names}
    first, _ = merge(bound(mean), model("bare", bare), model("full", full))
    assert [first[name].tolist() for name in names] == [[3.0, 4.0]] * 2
    second, _ = merge(bound(mean), model("p", full), model("s", bare), folder="second")
    assert [second[name].tolist() for name in full] == [[1.0, 2.0]] * 2


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.language_model."])
def test_prefixes_of_wrappers_are_named_with_how_to_strip_them(model, merge, prefix):
    plain = {"model.norm.weight": [1.0], "lm_head.weight": [1.0]}
    pivot = model("p", plain)
    wrapped = model("s", {f"{prefix}{name}": value for name, value in plain.items()})
    with pytest.raises(CheckpointMismatchError) as caught:
        merge(bound(mean), pivot, wrapped)
    assert f"begin with {prefix}" in str(caught.value)
    assert f"n.removeprefix('{prefix}')" in str(caught.value)


def test_float64_pivots_are_refused_with_the_way_out(model, merge):
    pivot = model("p", {"a": torch.ones(1, dtype=torch.float64), "b": [1.0]})
    with pytest.raises(
        ValueError, match=r"1 tensors of the pivot .*, a for one.*dtype=float32"
    ):
        merge(bound(mean), pivot, pivot)
    assert merge(bound(mean), pivot, pivot, exclude=["a"])[0]["a"].dtype == torch.float64
    merged, _ = merge(bound(mean), pivot, pivot, folder="32", dtype=torch.float32)
    assert merged["a"].dtype == torch.float32


def test_code_of_the_pivot_is_named_and_not_copied(model, merge, tmp_path):
    pivot = model("p", {"a": [1.0]})
    (pivot.path / "modeling_x.py").write_text("")
    _, report = merge(bound(mean), pivot, pivot)
    (warning,) = report.warnings
    assert "holds code (modeling_x.py), which is not copied" in warning
    assert not (tmp_path / "merged" / "modeling_x.py").exists()


def interrupt(_pivot):
    raise KeyboardInterrupt("by the user")


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda pivot: pivot[:1], ValueError, r"block.s shape, \(2,\), got \(1,\)"),
        (lambda pivot: pivot.double(), ValueError, r"float32, got torch\.float64"),
        (lambda pivot: pivot / 0 * 0, ValueError, "NaN or inf"),
        (lambda pivot: pivot.add_(1), ValueError, "must not write to its inputs"),
        (lambda pivot: pivot.tolist(), ValueError, "must return a tensor, got list"),
        (lambda pivot: pivot.to("meta"), ValueError, "inputs, cpu, got meta"),
        (interrupt, KeyboardInterrupt, "by the user"),
    ],
)
def test_failing_method_leaves_no_folder(model, merge, tmp_path, returned, error, message):
    def fails(pivot, _sources, site, /):
        return returned(pivot) if site.name == "b" else pivot

    pivot = model("p", {"a": [1.0, 1.0], "b": [1.0, 1.0]})
    with pytest.raises(error, match=message):
        merge(bound(fails), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_failing_diagnostics_leave_no_folder(model, merge, tmp_path):
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(TypeError):
        merge(bound(fill_unreported), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_overflow_of_the_output_dtype_is_refused(model, merge):
    pivot = model("p", {"a": [1e5]})
    with pytest.raises(ValueError, match=r"too large for torch\.float16") as error:
        merge(bound(mean), pivot, pivot, dtype=torch.float16)
    assert error.value.__notes__ == ["while merging a with shape (1,)"]


def test_existing_destination_is_refused_before_reading(model, merge, tmp_path):
    (tmp_path / "merged").mkdir()
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match="merged already exists"):
        merge(bound(fill_unreported), pivot, pivot)
    assert pivot.bytes_read == 0


MEASURED = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from baselines import sce, ties
from eval.meter import metered
from seme.engine import merge_checkpoints
from seme.kernels.warmup import load
from seme.checkpoint.reader import open_checkpoint
from tests.settings import SETTINGS

root, budget = Path(sys.argv[1]), int(sys.argv[2])
models = [open_checkpoint(name, root=root) for name in ("p", "s", "t")]
trim = {"density": 0.2, "lam": 1.0, "trim_ties": "exact"}
methods = {
    "sce": partial(sce.merge, tau=0.2, lam=1.0, renormalize=False, select="deltas"),
    "model": partial(ties.merge, scope="model", **trim),
    "tensor": partial(ties.merge, scope="tensor", **trim),
}
load(2)
for name, method in methods.items():
    settings = replace(SETTINGS, memory_budget=budget)
    with metered("cpu") as stage:
        merge_checkpoints(
            method, models[0], models[1:], root / name, settings=settings, progress=False
        )
    print(stage.cost.peak_rss_bytes - stage.cost.base_rss_bytes)
"""


def test_peak_memory_stays_within_the_budget(model, tmp_path, repository):
    sizes = {"a": 21_000_000, "b": 9_000_000, "c": 9_000_000}  # 78 MB a model, 156 in float32
    rng = torch.Generator().manual_seed(0)
    for name in ("p", "s", "t"):
        model(name, {n: torch.randn(k, generator=rng).bfloat16() for n, k in sizes.items()})
    budget = 100 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), str(budget)],
        cwd=repository, capture_output=True, text=True, check=True,
    )  # fmt: skip
    taken = [int(line) for line in done.stdout.split()]
    assert len(taken) == 3
    assert max(taken) <= budget


WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


@pytest.fixture
def wide(make_llama, tmp_path):
    """Two models from different seeds, large enough for the same-base check."""

    def make(seed, **options):
        folder = make_llama(tmp_path / str(seed), seed, **WIDE, **options)
        return open_checkpoint(folder, root=tmp_path)

    return make


def test_sources_that_share_no_ancestor_are_warned_of_and_recorded(wide, merge, caplog):
    pivot, other = wide(0), wide(1)
    with caplog.at_level(logging.WARNING, "seme"):
        _, report = merge(bound(mean), pivot, pivot, other)
    (line,) = report.warnings
    assert line.startswith(f"source 1 ({other.path}) does not look like a fine-tune")
    assert line in caplog.messages
    n_sampled = 7 * 2**10 + 2**9
    assert report.bytes_read <= 3 * report.bytes_written + 4 * 4 * n_sampled  # counted


def test_adapter_of_the_pivot_is_no_stranger(wide, merge):
    pivot = wide(0)
    key = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {k: 100 * v for k, v in pair(key, inputs=32, outputs=48).items()}
    adapter = open_adapter(write_adapter(pivot.path, factors), root=pivot.path)
    _, report = merge(bound(mean), pivot, adapter)
    assert report.warnings == []


def test_seme_aligns_strangers_without_the_warning(wide, merge):
    pivot, other = wide(0), wide(1)
    _, report = merge(bound(seme_merge, **SEME), pivot, other)
    assert report.warnings == []


def test_other_rope_theta_is_merged_with_the_pivots_and_recorded(wide, merge, tmp_path):
    pivot, other = wide(0), wide(1, rope_theta=123.0)
    merged, report = merge(bound(step, lam=1.0), pivot, other)
    assert torch.equal(merged["model.norm.weight"], other.read("model.norm.weight"))
    assert "rope_theta: 10000.0 expected, 123.0 found" in report.warnings[0]
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 10_000.0


def test_adapter_trained_on_another_base_is_warned_of(wide, merge, tmp_path):
    pivot = wide(0)
    snapshot = tmp_path / "hub/models--org--base/snapshots/0123"
    shutil.copytree(pivot.path, snapshot)
    key = "base_model.model.model.layers.0.mlp.up_proj"
    factors = {k: v / 100 for k, v in pair(key, inputs=32, outputs=48).items()}
    folder = write_adapter(pivot.path, factors, base_model_name_or_path="other/base")
    adapter = open_adapter(folder, base=snapshot, root=tmp_path)
    _, report = merge(bound(mean), pivot, adapter)
    (line,) = [line for line in report.warnings if "other/base" in line]
    assert line.startswith(f"source 0 ({folder}): the adapter was trained on other/base")
