"""The engine: what it checks before a merge, what the method sees, what comes out."""

import functools
import json
import shutil
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from seme.engine import check_method, merge_checkpoints, method_settings
from seme.storage.checkpoint import open_checkpoint
from seme.types import CheckpointMismatchError, Site, prepared_by

CPU = torch.device("cpu")


def mean(_pivot: Tensor, sources: Sequence[Tensor], _site: Site, /) -> Tensor:
    return torch.stack(tuple(sources)).mean(dim=0)


def step(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, lam: float) -> Tensor:
    return pivot + lam * (sources[0] - pivot)


def noise(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /) -> Tensor:
    return pivot + site.uniform(0, pivot.shape)


class Norms:
    def __init__(self, norms):
        self.norms = norms

    def at(self, name):
        return self.norms[name]

    def diagnostics(self):
        return {"norms": self.norms}


def source_sums(models, /, *, lam):
    return Norms({name: lam * sources[0].sum().item() for name, _, sources in models.stream()})


@prepared_by(source_sums)
def fill(pivot: Tensor, _sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    return torch.full_like(pivot, site.prepared + lam)


def asks_too_much(_models, /, *, lam, rho):
    return Norms({"a": lam * rho})


@prepared_by(asks_too_much)
def misprepared(
    pivot: Tensor, _sources: Sequence[Tensor], _site: Site, /, *, lam: float
) -> Tensor:
    return pivot * lam


def settings(*, density: float, lam: float) -> None: ...


@pytest.fixture
def model(tmp_path):
    """Write and open a toy model: ``model(name, {tensor: values})``."""

    def make(name, tensors, config='{"model_type": "toy"}'):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        save_file({n: torch.as_tensor(v).clone() for n, v in tensors.items()}, folder / FILE)
        return open_checkpoint(folder, root=tmp_path)

    return make


FILE = "model.safetensors"


@pytest.fixture
def merge(tmp_path):
    """Merge into ``tmp_path/merged`` and return the tensors and the report."""

    def run(method, pivot, *sources, folder="merged", **options):
        defaults = {
            "seed": 0,
            "device": CPU,
            "dtype": None,
            "include": (),
            "exclude": (),
            "progress": False,
        }
        report = merge_checkpoints(
            method, pivot, sources, tmp_path / folder, **{**defaults, **options}
        )
        return load_file(tmp_path / folder / FILE), report

    return run


def bound(function, **settings):
    return functools.partial(function, **settings)


def test_every_tensor_is_merged_and_counted(model, merge):
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
def test_the_method_sees_float32_and_the_result_has_the_dtype_of_the_pivot(model, merge, dtype):
    def spy(pivot, sources, _site, /):
        assert {t.dtype for t in (pivot, *sources)} == {torch.float32}
        return sources[0]

    source = model("s", {"a": torch.tensor([0.5, 1.0], dtype=dtype)})
    merged, _ = merge(
        bound(spy), model("p", {"a": torch.zeros(2, dtype=torch.float16)}), source
    )
    assert merged["a"].dtype == torch.float16
    assert merged["a"].tolist() == [0.5, 1.0]


def test_the_result_is_rounded_once_and_the_loss_reported(model, merge):
    # exact 257 lies between bfloat16's 256 and 258: 1 of a change of 257 - 256 = 1 is lost
    pivot = model("p", {"a": torch.tensor([256.0]).bfloat16()})
    merged, report = merge(bound(step, lam=0.5), pivot, model("s", {"a": [258.0]}))
    assert merged["a"].tolist() == [256.0]
    assert report.rounding_loss == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_merging_a_model_with_itself_returns_it_bit_for_bit(make_llama, merge, tmp_path, dtype):
    llama = open_checkpoint(make_llama(tmp_path / "llama", 3, dtype=dtype), root=tmp_path)
    merged, report = merge(bound(mean), llama, llama, llama)
    assert all(torch.equal(merged[name], llama.read(name)) for name in llama.names)
    assert open_checkpoint("merged", root=tmp_path).content_hash() == llama.content_hash()
    assert report.rounding_loss == 0.0


def test_transformers_loads_a_merge_with_every_key_in_place(make_llama, merge, tmp_path):
    pivot, source = (
        open_checkpoint(make_llama(tmp_path / str(seed), seed), root=tmp_path)
        for seed in (0, 1)
    )
    merge(bound(step, lam=0.25), pivot, source)
    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype="auto", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    name = "model.layers.1.mlp.down_proj.weight"
    expected = pivot.read(name) + 0.25 * (source.read(name) - pivot.read(name))
    assert torch.equal(loaded.state_dict()[name], expected)


def test_sharded_models_merge_like_single_files(make_llama, merge, tmp_path):
    whole = open_checkpoint(make_llama(tmp_path / "whole", 1), root=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "shards")
    shards = open_checkpoint("shards", root=tmp_path)
    pivot = open_checkpoint(make_llama(tmp_path / "pivot", 0), root=tmp_path)
    one, _ = merge(bound(step, lam=0.5), pivot, whole, folder="one")
    two, _ = merge(bound(step, lam=0.5), pivot, shards, folder="two")
    assert shards.names == whole.names
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_draws_depend_on_seed_and_tensor_not_on_what_else_is_merged(model, merge):
    pivot = model("p", {name: torch.zeros(4) for name in "abc"})
    everything, _ = merge(bound(noise), pivot, pivot, folder="1")
    alone, _ = merge(bound(noise), pivot, pivot, folder="2", include=["c"])
    reseeded, _ = merge(bound(noise), pivot, pivot, folder="3", seed=1)
    assert torch.equal(everything["c"], alone["c"])
    assert not torch.equal(everything["c"], everything["b"])
    assert not torch.equal(everything["c"], reseeded["c"])


def test_the_preparation_reaches_the_method_through_its_site(model, merge):
    source = model("s", {"a": [1.0, 2.0], "b": [4.0]})
    merged, report = merge(
        bound(fill, lam=2.0), model("p", {"a": [0.0, 0.0], "b": [0.0]}), source
    )
    assert merged["a"].tolist() == [2 * 3.0 + 2.0] * 2
    assert report.diagnostics == {"norms": {"a": 6.0, "b": 8.0}}
    assert report.bytes_read == 2 * (12 + 12)


def test_what_is_not_merged_is_copied_from_the_pivot_with_a_reason(model, merge):
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


def test_a_head_tied_to_the_embedding_is_written_once_and_reported(model, merge):
    tied = '{"tie_word_embeddings": true}'
    weights = {"embed_tokens.weight": torch.ones(2, 2)}
    pivot = model("p", {**weights, "lm_head.weight": torch.ones(2, 2)}, tied)
    merged, report = merge(bound(mean), pivot, model("s", weights, tied))
    assert list(merged) == ["embed_tokens.weight"]
    assert report.copied == {
        "lm_head.weight": "tied to embed_tokens.weight, which is written once"
    }


def test_the_output_dtype_is_that_of_all_tensors_and_of_the_configuration(
    model, merge, tmp_path
):
    pivot = model("p", {"a": [1.0], "b": [1.0], "n": torch.tensor(1)}, '{"dtype": "float32"}')
    merged, _ = merge(bound(mean), pivot, pivot, dtype=torch.bfloat16, exclude=["b"])
    assert [merged[name].dtype for name in "abn"] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.int64,
    ]
    assert json.loads((tmp_path / "merged/config.json").read_text()) == {"dtype": "bfloat16"}


@pytest.mark.parametrize("pattern", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(model, merge, pattern):
    pivot = model("p", {"a.weight": [1.0]})
    with pytest.raises(ValueError, match=r"'a\.wieght' matches no tensor.*a\.weight"):
        merge(bound(mean), pivot, pivot, **{pattern: ["a.wieght"]})


def test_excluding_everything_is_refused(model, merge):
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match=r"no tensor of .* is left to merge"):
        merge(bound(mean), pivot, pivot, exclude=["*"])


def test_a_merge_without_sources_is_refused(model, merge):
    with pytest.raises(ValueError, match="at least one source, got none"):
        merge(bound(mean), model("p", {"a": [1.0]}))


MISFITS = {
    r"a: shape \(2,\) expected, missing in the source": {"b": [1.0]},
    r"c: shape \(1,\) found, missing in the pivot": {"a": [1.0, 1.0], "b": [1.0], "c": [1.0]},
    r"a: shape \(2,\) expected, \(2, 1\) found": {"a": [[1.0], [1.0]], "b": [1.0]},
    r"b: torch\.float32 expected, torch\.int64 found": {"a": [1.0, 1.0], "b": [1]},
}


@pytest.mark.parametrize("message", MISFITS)
def test_a_source_that_does_not_fit_is_named_with_its_tensors(model, merge, tmp_path, message):
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
def test_of_many_misfits_the_first_five_are_named(model, merge, n_misfits, rest):
    names = [f"t{i}" for i in range(n_misfits)]
    pivot = model("p", {name: [1.0] for name in names})
    source = model("s", {name: [1.0, 1.0] for name in names})
    with pytest.raises(CheckpointMismatchError, match=r"t0: ") as error:
        merge(bound(mean), pivot, source)
    last = "t4: shape (1,) expected, (2,) found"
    assert str(error.value).endswith(f"{last}{rest}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_source_that_is_not_finite_is_named_and_leaves_nothing(model, merge, tmp_path, value):
    pivot, sick = model("p", {"a": [1.0], "b": [1.0]}), model("s", {"a": [1.0], "b": [value]})
    with pytest.raises(
        ValueError, match=r"b of source 1 \(.*/s\) holds NaN or an inf"
    ) as error:
        merge(bound(mean), pivot, pivot, sick)
    assert error.value.__notes__ == ["while merging b with shape (1,)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "s"]


def test_a_pivot_that_is_not_finite_is_named_even_where_it_is_copied(model, merge):
    pivot = model("p", {"a": [1.0], "b": [float("nan")]})
    with pytest.raises(ValueError, match=r"b of the pivot \(.*/p\) holds NaN"):
        merge(bound(mean), pivot, pivot, exclude=["b"])


def returns_too_little(pivot, _sources, _site, /):
    return pivot[:1]


def returns_nan(pivot, _sources, _site, /):
    return pivot / 0 * 0


def is_interrupted(pivot, _sources, site, /):
    if site.name == "b":
        raise KeyboardInterrupt("by the user")
    return pivot


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (returns_too_little, ValueError, r"returned shape \(1,\), not \(2,\)"),
        (returns_nan, ValueError, "what the method returned holds NaN"),
        (is_interrupted, KeyboardInterrupt, "by the user"),
    ],
)
def test_a_method_that_fails_leaves_no_folder(model, merge, tmp_path, method, error, message):
    pivot = model("p", {"a": [1.0, 1.0], "b": [1.0, 1.0]})
    with pytest.raises(error, match=message):
        merge(bound(method), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_report_that_fails_leaves_no_folder(model, merge, tmp_path, monkeypatch):
    monkeypatch.setattr(Norms, "diagnostics", lambda _: None)
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(TypeError):
        merge(bound(fill, lam=1.0), pivot, pivot)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_result_too_large_for_the_output_dtype_is_refused(model, merge):
    pivot = model("p", {"a": [1e5]})
    with pytest.raises(ValueError, match=r"too large for torch\.float16") as error:
        merge(bound(mean), pivot, pivot, dtype=torch.float16)
    assert error.value.__notes__ == ["while merging a with shape (1,)"]


def test_a_destination_that_exists_is_refused_before_anything_is_read(model, merge, tmp_path):
    (tmp_path / "merged").mkdir()
    pivot = model("p", {"a": [1.0]})
    with pytest.raises(ValueError, match="merged already exists"):
        merge(bound(fill, lam=1.0), pivot, pivot)
    assert pivot.bytes_read == 0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            bound(settings, densty=1, lam=1),
            r"no parameter densty, only density, lam; did you mean density\?",
        ),
        (bound(settings, density=1, lam=1, x=2), "no parameter x, only density, lam$"),
        (bound(settings, lam=1), "needs density as well; it takes density, lam"),
        (bound(mean, lam=1), "no parameter lam, only none"),
        (
            functools.partial(step, torch.ones(1), lam=1.0),
            "only keyword parameters can be bound",
        ),
        (
            bound(misprepared, lam=1.0),
            "preparation of .*misprepared takes rho, which it has not",
        ),
    ],
)
def test_a_wrongly_bound_method_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_method(method)


def test_a_rightly_bound_method_passes_and_lists_its_settings():
    method = bound(settings, lam=(1, 2.5), density={"a": None})
    check_method(method)
    assert method_settings(method) == {"density": {"a": None}, "lam": [1, 2.5]}


def test_a_setting_that_json_cannot_hold_is_named():
    with pytest.raises(ValueError, match="lam must be a number, text, list or mapping, got"):
        method_settings(bound(step, lam=torch.ones(1)))
