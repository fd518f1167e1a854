"""Methods of whole tensors: inputs, memory, refusals."""

import math
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch

from seme.budget import Sizes, allocate, mebibytes
from seme.checkpoint.reader import open_checkpoint
from seme.interface import Traits, prepared_by, traits_of, whole_tensor
from seme.method import prepare as align
from seme.streaming import CPU_BLOCK
from seme.whole_tensor import SharedMemory, bytes_of_whole
from tests.golden_merges import digest_of
from tests.golden_pools import write_pool
from tests.seme_merges import SETTINGS as SEME
from tests.settings import SETTINGS

CPU = torch.device("cpu")
WIDE = (300, 500)
"""More elements than a block."""


@whole_tensor(temporaries=0)
def halfway(pivot, sources, _site, /):
    return (pivot + sources[0]) / 2


@whole_tensor
def columns(_pivot, sources, _site, /):
    """Scale columns to norm 1: a result that no block can give."""
    return sources[0] / torch.linalg.vector_norm(sources[0], dim=0)


def is_square(_name, shape, /):
    return shape[:1] == shape[1:]


@whole_tensor(temporaries=0, choice=is_square)
def doubled_squares(pivot, _sources, _site, /):
    return 2 * pivot if pivot.dim() == 2 else -pivot


def working_memory(n_sources=1, n_threads=SETTINGS.n_threads):
    sizes = Sizes(n_ranked=0)
    return allocate(SETTINGS.memory_budget, n_sources, n_threads, CPU, sizes).working_bytes


def test_method_gets_each_whole_tensor_once(model, merge):
    calls = []

    @whole_tensor
    def spy(pivot, sources, site, /):
        calls.append((site.name, site.start, torch.get_num_threads()))
        assert {(t.dtype, t.shape) for t in (pivot, *sources)} == {(torch.float32, pivot.shape)}
        return sources[0]

    shapes = {"a": WIDE, "b": (3,), "c": (), "d": (0, 4), "e": (2, 3, 4)}
    rng = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(s, generator=rng).bfloat16() for n, s in shapes.items()}
    source = model("s", tensors)
    pivot = model("p", {n: torch.zeros(s) for n, s in shapes.items()})
    for n_threads in (1, 2):
        merged, _ = merge(partial(spy), pivot, source, source, n_threads=n_threads,
                          folder=str(n_threads))  # fmt: skip
        assert sorted(calls) == [(name, 0, 1) for name in "abce"]  # d has no elements
        assert all(torch.equal(merged[n], tensors[n].float()) for n in shapes)
        calls.clear()


def test_chosen_tensors_come_whole_and_the_others_in_blocks(model, merge):
    pivot = model("p", {"square": torch.ones(3, 3), "wide": torch.ones(WIDE), "flat": [1.0]})
    merged, report = merge(partial(doubled_squares), pivot, pivot)
    assert {n: t.unique().tolist() for n, t in merged.items()} == {
        "square": [2.0], "wide": [-1.0], "flat": [-1.0],
    }  # fmt: skip
    assert report.n_merged == 3


def test_only_chosen_tensors_take_memory(model, merge):
    sizes = {"square": torch.ones(3, 3), "wide": torch.ones(3000, 4000, dtype=torch.float16)}
    pivot, budget = model("p", sizes), working_memory() + 4 * 9 * 3
    merge(partial(doubled_squares), pivot, pivot, memory_budget=budget)
    with pytest.raises(ValueError, match="square takes 1MiB"):
        merge(partial(doubled_squares), pivot, pivot, memory_budget=budget - 1, folder="b")
    with pytest.raises(ValueError, match="wide takes"):
        merge(partial(halfway), pivot, pivot, memory_budget=budget, folder="c")
    merge(partial(doubled_squares), pivot, pivot, memory_budget=budget - 1,
          exclude=["square"], folder="d")  # fmt: skip


def test_whole_tensor_result_and_report_equal_blockwise(model, merge):
    def in_blocks(*arguments):
        return halfway(*arguments)

    rng = torch.Generator().manual_seed(0)
    sizes = {"a": 3 * CPU_BLOCK + 5, "b": 10}
    pivot, source = (
        model(name, {n: torch.randn(k, generator=rng).bfloat16() for n, k in sizes.items()})
        for name in "ps"
    )
    whole, report = merge(partial(halfway), pivot, source, exclude=["b"])
    blocks, expected = merge(partial(in_blocks), pivot, source, exclude=["b"], folder="blocks")
    assert all(torch.equal(whole[name], blocks[name]) for name in sizes)
    assert report == expected
    assert report.rounding_loss > 0
    assert report.copied == {"b": "excluded by b"}


def test_column_normalisation_works_on_whole_tensors(model, merge):
    source = model("s", {"a": torch.full(WIDE, 2.0)})
    merged, _ = merge(partial(columns), source, source)
    assert merged["a"].unique().tolist() == [pytest.approx(1 / math.sqrt(WIDE[0]))]


def test_site_carries_the_prepared_values(model, merge):
    class Means:
        def at(self, tensor):
            sums = tensor.map(lambda block: block.sources[0].sum().item())
            return sum(sums) / tensor.numel

        def diagnostics(self):
            return {"means": True}

    @prepared_by(lambda _models, /: Means())
    @whole_tensor
    def centre(pivot, _sources, site, /):
        return torch.full_like(pivot, site.prepared)

    source = model("s", {"a": torch.full(WIDE, 3.0), "b": [1.0, 2.0]})
    merged, report = merge(partial(centre), source, source)
    assert (merged["a"].unique().tolist(), merged["b"].tolist()) == ([3.0], [1.5, 1.5])
    assert report.diagnostics == {"means": True}


def test_realigned_sources_are_merged_as_whole_tensors(merge, tmp_path):
    folders = write_pool("turned", tmp_path)
    pivot, *sources = (open_checkpoint(folder, root=folder) for folder in folders)

    def average(_pivot, sources, _site, /):
        return (sources[0] + sources[1]) / 2

    hyper = {k: v for k, v in SEME.items() if k not in ("lam", "renormalize", "select")}
    prepared = prepared_by(align, any_shape=True)
    whole, _ = merge(
        partial(whole_tensor(prepared(lambda *a: average(*a))), **hyper), pivot, *sources
    )
    blocks, _ = merge(
        partial(prepared(lambda *a: average(*a)), **hyper), pivot, *sources, folder="blocks"
    )
    assert {n: digest_of(t) for n, t in whole.items()} == {
        n: digest_of(t) for n, t in blocks.items()
    }


def most_in_parallel(model, merge, *, n_fit):
    """How many tensors a method is called for at one time, of six on three threads."""
    running, most, lock = 0, 0, threading.Lock()
    all_met = threading.Event()

    @whole_tensor(temporaries=1)
    def meet(pivot, _sources, _site, /):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                all_met.set()
        all_met.wait(timeout=10 if n_fit >= 3 else 0.05)
        with lock:
            running -= 1
        return pivot

    pivot = model("p", {name: torch.ones(WIDE) for name in "abcdef"})
    of_one = bytes_of_whole(math.prod(WIDE), 1, traits_of(meet))
    assert of_one == 4 * 150_000 * 4  # pivot, source, result, one more
    budget = working_memory(n_threads=3) + n_fit * of_one
    merge(partial(meet), pivot, pivot, n_threads=3, memory_budget=budget)
    return most


@pytest.mark.parametrize(("n_fit", "most"), [(3, 3), (1, 1)])
def test_tensors_are_merged_in_parallel_as_the_budget_allows(
    model, merge, monkeypatch, n_fit, most
):
    monkeypatch.setattr(
        "seme.budget._MOST_BLOCKS_PER_READ", 1
    )  # working_memory memory of any budget
    assert most_in_parallel(model, merge, n_fit=n_fit) == most


def test_tensor_over_the_budget_is_refused_before_reading(model, merge, tmp_path):
    pivot = model("p", {"small": [1.0], "large": torch.ones(40_000_000, dtype=torch.float16)})
    need = 4 * 40_000_000 * 3
    message = rf"large takes {mebibytes(need)} \({need} bytes\) .*memory_budget is 200MiB"
    with pytest.raises(ValueError, match=message) as caught:
        merge(partial(halfway), pivot, pivot, memory_budget=200 * 2**20)
    assert pivot.bytes_read == 0
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    enough = int(str(caught.value).rpartition("to at least ")[2].removesuffix("MiB"))
    merge(partial(halfway), pivot, pivot, memory_budget=enough * 2**20)
    with pytest.raises(ValueError, match=message):
        merge(partial(halfway), pivot, pivot, memory_budget=200 * 2**20, folder="again")
    merge(partial(halfway), pivot, pivot, memory_budget=200 * 2**20, exclude=["large"],
          folder="small")  # fmt: skip


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda pivot: pivot.flatten(), r"return the tensor's shape, \(2, 2\), got \(4,\)"),
        (lambda pivot: pivot.double(), r"must return float32, got torch\.float64"),
        (lambda pivot: pivot.mul_(2), "must not write to its inputs"),
        (lambda pivot: pivot / 0 * 0, "merge method returned NaN"),
        (lambda pivot: pivot[9], "index 9 is out of bounds"),
    ],
)
def test_failure_names_the_tensor_and_leaves_no_files(
    model, merge, tmp_path, returned, message
):
    @whole_tensor
    def fails(pivot, _sources, _site, /):
        return returned(pivot)

    pivot = model("p", {"a": [[1.0, 1.0], [1.0, 1.0]]})
    with pytest.raises((ValueError, IndexError), match=message) as caught:
        merge(partial(fails), pivot, pivot)
    assert caught.value.__notes__ == ["while merging a with shape (2, 2)"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_non_finite_source_is_refused(model, merge):
    pivot, sick = model("p", {"a": [1.0]}), model("s", {"a": [float("nan")]})
    with pytest.raises(ValueError, match=r"a of source 0 \(.*/s\) holds NaN") as caught:
        merge(partial(halfway), pivot, sick)
    assert caught.value.__notes__ == ["while merging a with shape (1,)"]


def test_shared_memory_is_released_after_errors():
    memory = SharedMemory(10)
    with pytest.raises(KeyError), memory.taken(10):
        raise KeyError
    with memory.taken(4), memory.taken(6):
        pass
    with memory.taken(10):
        pass


def test_whole_tensor_bytes_count_inputs_result_and_temporaries():
    traits = Traits(whole_tensor=True, temporaries=4)
    assert bytes_of_whole(1000, 2, traits) == 4 * 1000 * (1 + 2 + 1 + 4)
    traits = Traits(whole_tensor=True, temporaries=3, per_source=2)
    assert bytes_of_whole(1000, 5, traits) == 4 * 1000 * (1 + 5 + 1 + 3 + 10)


MEASURED = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from baselines import slerp
from eval.meter import metered
from seme.engine import merge_checkpoints
from seme.kernels.warmup import load
from seme.checkpoint.reader import open_checkpoint
from tests.settings import SETTINGS

root, budget = Path(sys.argv[1]), int(sys.argv[2])
pivot, source, small = (open_checkpoint(name, root=root) for name in ("p", "s", "tiny"))
load(1)
method, settings = partial(slerp.merge, t=0.5), replace(SETTINGS, memory_budget=budget)
merge_checkpoints(method, small, [small], root / "once", settings=settings, progress=False)
merged = root / "merged"
with metered("cpu") as stage:
    merge_checkpoints(method, pivot, [source], merged, settings=settings, progress=False)
print(stage.cost.peak_rss_bytes - stage.cost.base_rss_bytes)
"""


def test_peak_memory_stays_within_the_budget(model, tmp_path, repository):
    sizes = {"a": 12_000_000, "b": 9_000_000, "c": 9_000_000, "d": 9_000_000}
    rng = torch.Generator().manual_seed(0)
    for name in ("p", "s"):
        model(name, {n: torch.randn(k, generator=rng).bfloat16() for n, k in sizes.items()})
    model("tiny", {"a": torch.ones(10).bfloat16()})
    budget = (
        working_memory() + 4 * 18_000_000 * 3
    )  # two of the smaller ones, 468 MB for all of them
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), str(budget)],
        cwd=repository, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 4 * 12_000_000 * 3 < int(done.stdout) <= budget
