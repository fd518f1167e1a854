"""The contract of every method in conf/method; a new file is tested without a new line.

Neither the cut into blocks nor threads nor the order of tensors shows in the result, nor that
of the sources unless the method declares it; inputs stay as they are; ranges are checked first.
"""

import functools
import hashlib
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from seme import engine
from seme.binding import check_method, hyper_parameter_names
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.interface import traits_of, whole_tensor
from tests.golden_merges import digest_of, method_names, method_of, most_sources
from tests.golden_pools import write_pool
from tests.in_memory import merge_one, random_models
from tests.settings import SETTINGS

METHODS = method_names()
DTYPES = {"bfloat16_tied": "bfloat16", "float16": "float16", "float32": "float32"}
CUTS = (7, 1000)
"""Elements per block: an odd number, and one that is no power of two."""


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return {name: write_pool(name, folder) for name in (*DTYPES, "turned")}


@pytest.fixture
def merged(tmp_path):
    """Merge model folders and return the tensors by name: ``merged(method, folders)``."""

    def run(method, folders, **settings):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        pivot, *sources = (open_checkpoint(folder, root=folder) for folder in folders)
        settled = replace(SETTINGS, **settings)
        merge_checkpoints(method, pivot, sources, place, settings=settled, progress=False)
        return load_file(place / "model.safetensors")

    return run


def models_for(method, folders, most=math.inf):
    """As many models of a pool as a method merges, the pivot first."""
    n_sources = min(len(folders) - 1, most_sources(method), most)
    return folders[: 1 + int(n_sources)]


def bits(tensors):
    return {name: digest_of(tensor) for name, tensor in tensors.items()}


def pools_of(method, pools):
    names = ["float32", *(["turned"] if traits_of(method).any_shape else [])]
    return [models_for(method, pools[name]) for name in names]


def assert_equal_for_every_block_size(method, folders, merged, monkeypatch):
    """Merge in blocks of other sizes.

    Raises:
        pytest.fail.Exception: If a result is another; one line, without the bits.
    """
    expected = bits(merged(method, folders))
    for size in CUTS:
        monkeypatch.setattr("seme.streaming.CPU_BLOCK", size)
        if bits(merged(method, folders)) != expected:
            pytest.fail(
                f"needs @whole_tensor or a preparation: blocks of {size} elements change the "
                "merge",
                pytrace=False,
            )


@pytest.mark.parametrize("name", METHODS)
def test_result_does_not_depend_on_block_size(name, pools, merged, monkeypatch):
    method = method_of(name)
    for folders in pools_of(method, pools):
        with monkeypatch.context() as patch:
            assert_equal_for_every_block_size(method, folders, merged, patch)


def blockwise_slerp(pivot, sources, _site, /):
    """A SLERP that takes its block for the tensor."""
    (source,) = sources
    angle = torch.acos(torch.cosine_similarity(pivot.flatten(), source.flatten(), dim=0))
    return (pivot + source) * torch.sin(angle / 2) / torch.sin(angle)


def test_blockwise_slerp_fails_the_contract(pools, merged, monkeypatch):
    folders = pools["float32"][:2]
    with (
        monkeypatch.context() as patch,
        pytest.raises(pytest.fail.Exception, match="needs @whole_tensor or a preparation"),
    ):
        assert_equal_for_every_block_size(partial(blockwise_slerp), folders, merged, patch)


def test_whole_tensor_slerp_passes_the_contract(pools, merged, monkeypatch):
    @whole_tensor
    def declared(*arguments):
        return blockwise_slerp(*arguments)

    assert_equal_for_every_block_size(
        partial(declared), pools["float32"][:2], merged, monkeypatch
    )


@pytest.mark.parametrize("name", METHODS)
def test_result_does_not_depend_on_threads(name, pools, merged):
    method = method_of(name)
    for folders in pools_of(method, pools):
        expected = bits(merged(method, folders, n_threads=1))
        for n_threads in (2, 5):
            assert bits(merged(method, folders, n_threads=n_threads)) == expected


@pytest.mark.parametrize("name", METHODS)
def test_result_does_not_depend_on_torch_threads(name, pools, merged):
    method = method_of(name)
    folders = models_for(method, pools["float32"])
    before = torch.get_num_threads()
    expected = bits(merged(method, folders))
    torch.set_num_threads(before + 3)
    try:
        assert bits(merged(method, folders, n_threads=1)) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", METHODS)
def test_result_does_not_depend_on_tensor_order(name, pools, merged, monkeypatch):
    def walk_backwards(self, models, **_):
        return [self._write(models, tensor) for tensor in reversed(list(self.layout))]

    method = method_of(name)
    for folders in pools_of(method, pools):
        expected = bits(merged(method, folders))
        with monkeypatch.context() as patch:
            patch.setattr(engine._Walk, "over", walk_backwards)
            assert bits(merged(method, folders)) == expected


@pytest.mark.parametrize("name", METHODS)
def test_result_depends_on_source_order_only_if_declared(name, pools, merged):
    method = method_of(name)
    for pivot, *sources in pools_of(method, pools):
        expected = bits(merged(method, [pivot, *sources]))
        reversed_too = bits(merged(method, [pivot, *sources[::-1]]))
        assert (reversed_too != expected) == traits_of(method).order_matters, (
            "declare @takes(order_matters=True) if the order of the sources is to matter"
        )


BLOCKWISE = [name for name in METHODS if not traits_of(method_of(name)).any_shape]
"""Methods of single tensors."""


def random_inputs(method, shape, n_sources):
    return random_models(shape, int(min(n_sources, most_sources(method))))


@pytest.mark.parametrize("name", BLOCKWISE)
def test_four_random_sources_may_be_in_any_order_unless_declared(name):
    method = method_of(name)
    pivot, sources = random_inputs(method, (300, 200), 4)
    first, second = (merge_one(watched(method), pivot, s) for s in (sources, sources[::-1]))
    assert torch.equal(first, second) != traits_of(method).order_matters


@pytest.mark.parametrize("shape", [(), (7,), (3, 0), (2, 3, 4), (260, 257)])
@pytest.mark.parametrize("name", BLOCKWISE)
def test_shape_is_kept_and_result_is_float32(name, shape):
    method = method_of(name)
    pivot, sources = random_inputs(method, shape, 3)
    merged = merge_one(watched(method), pivot, sources)
    assert (merged.shape, merged.dtype) == (shape, torch.float32)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pool", DTYPES)
def test_inputs_are_unchanged(name, pool, pools, merged):
    method = method_of(name)
    folders = models_for(method, pools[pool])
    files = [folder / "model.safetensors" for folder in folders]
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    merged(watched(method), folders)
    assert [hashlib.sha256(file.read_bytes()).digest() for file in files] == before


def watched(method):
    """The same method; every call fails if it writes to its inputs."""

    @functools.wraps(method.func)
    def watch(pivot, sources, site, /, **hyper):
        before = [tensor.clone() for tensor in (pivot, *sources)]
        result = method.func(pivot, sources, site, **hyper)
        pairs = zip(before, (pivot, *sources), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), "the method writes to its inputs"
        return result

    return partial(watch, **method.keywords)


def test_method_writing_to_its_inputs_fails_the_contract(pools, merged):
    @whole_tensor
    def overwrites(pivot, _sources, _site, /):
        return pivot.mul_(0.5)

    with pytest.raises(AssertionError, match="writes to its inputs"):
        merged(watched(partial(overwrites)), pools["float32"][:2])


@pytest.mark.parametrize("pool", DTYPES)
@pytest.mark.parametrize(
    "name", [n for n in METHODS if "lam" in hyper_parameter_names(method_of(n))]
)
def test_lam_zero_returns_the_pivot_bit_identical(name, pool, pools, merged):
    method = method_of(name)
    folders = models_for(method, pools[pool])
    result = merged(partial(method.func, **method.keywords | {"lam": 0.0}), folders)
    assert bits(result) == bits(load_file(folders[0] / "model.safetensors")), (
        "lam=0 must give the pivot bit by bit, also its -0.0, which pivot + 0.0 turns into "
        "0.0: add_weighted and add_signed of seme/elementwise.py keep it"
    )


@pytest.mark.parametrize("pool", DTYPES)
@pytest.mark.parametrize("name", METHODS)
def test_model_merged_with_itself_is_unchanged(name, pool, pools, merged):
    method = method_of(name)
    folders = models_for(method, [pools[pool][0]] * 4)
    result = merged(method, folders)
    model = load_file(folders[0] / "model.safetensors")
    assert all(torch.equal(result[key], model[key]) for key in model)


@pytest.mark.parametrize(
    "name", [n for n in METHODS if traits_of(method_of(n)).min_sources == 1]
)
@pytest.mark.parametrize("pool", DTYPES)
def test_one_source_is_merged_in_the_dtype_of_the_pivot(name, pool, pools, merged):
    method = method_of(name)
    pivot = load_file(pools[pool][0] / "model.safetensors")
    result = merged(method, models_for(method, pools[pool], most=1))
    assert {key: (t.dtype, t.shape) for key, t in result.items()} == {
        key: (t.dtype, t.shape) for key, t in pivot.items()
    }
    assert all(t.dtype == getattr(torch, DTYPES[pool]) for t in result.values())
    assert bits(result) != bits(pivot)


@pytest.mark.parametrize("pool", ["bfloat16_tied", "float16"])
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_upcast_and_rounded_once(name, pool, pools, merged, tmp_path):
    method = method_of(name)
    folders = models_for(method, pools[pool])
    copies = [in_float32(folder, tmp_path / f"copy{i}") for i, folder in enumerate(folders)]
    exact = merged(method, copies)
    rounded = {key: t.to(getattr(torch, DTYPES[pool])) for key, t in exact.items()}
    assert bits(merged(method, folders)) == bits(rounded)


def in_float32(folder, copy):
    copy.mkdir()
    (copy / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    save_file({k: t.float() for k, t in tensors.items()}, copy / "model.safetensors")
    return copy


SETTINGS_OF_METHODS = [
    (name, key) for name in METHODS for key in sorted(hyper_parameter_names(method_of(name)))
]
NEVER_IN_RANGE = [math.nan, math.inf, "no such value", {"a": 1.0}]


@pytest.mark.parametrize(("name", "key"), SETTINGS_OF_METHODS)
def test_out_of_range_hyper_parameter_is_refused_before_reading(name, key, pools, tmp_path):
    method = method_of(name)
    assert traits_of(method).check is not None, f"declare @checked_by(check) for {key}"
    folders = models_for(method, pools["float32"])
    pivot, *sources = (open_checkpoint(folder, root=folder) for folder in folders)
    is_number = type(method.keywords[key]) in (int, float)
    for value in [*NEVER_IN_RANGE, *([True] if is_number else [])]:
        wrong = partial(method.func, **method.keywords | {key: value})
        with pytest.raises(ValueError, match=rf"^{key} must be "):
            merge_checkpoints(
                wrong, pivot, sources, tmp_path / "no", settings=SETTINGS, progress=False
            )
    assert sum(model.bytes_read for model in (pivot, *sources)) == 0


@pytest.mark.parametrize("name", METHODS)
def test_undeclared_source_count_is_refused(name):
    method = method_of(name)
    least, most = traits_of(method).min_sources, traits_of(method).max_sources
    check_method(method, least)
    for n_sources in [least - 1] if most is None else [least - 1, most + 1]:
        with pytest.raises(ValueError, match=rf"merges .* into the pivot, got {n_sources}"):
            check_method(method, n_sources)
