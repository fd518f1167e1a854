"""KnOTS: a worked example, the paper's steps in float64, low ranks, the trim, edges."""

from functools import partial

import pytest
import torch

from baselines.knots import common_basis, largest
from baselines.knots import merge as merge_knots
from seme.checkpoint.reader import open_checkpoint
from tests.adapters import KEY, opened, write_adapter
from tests.in_memory import merge_one, random_models

knots = partial(merge_one, merge_knots, density=1.0, lam=1.0, vocabulary="mean")


def adapters(shape=(20, 30), rank=2, n_sources=3):
    rng = torch.Generator().manual_seed(0)
    pivot = torch.randn(shape, generator=rng)
    changes = [
        0.1
        * torch.randn(shape[0], rank, generator=rng).double()
        @ torch.randn(rank, shape[1], generator=rng).double()
        for _ in range(n_sources)
    ]
    return pivot, [(pivot.double() + change).float() for change in changes]


def formula(pivot, sources, density):
    """The paper's steps with LAPACK's SVD and loops over elements."""
    tv = [source.double() - pivot.double() for source in sources]
    u, s, vt = torch.linalg.svd(torch.cat(tv, dim=1), full_matrices=False)
    kept = s > 1e-5
    u, parts = u[:, kept], (s[kept, None] * vt[kept]).split(pivot.shape[1], dim=1)
    trimmed = []
    for part in parts:
        k = round(density * part.numel())
        bar = part.abs().flatten().sort(descending=True).values[k - 1]
        trimmed.append(torch.where(part.abs() >= bar, part, 0.0))
    merged = torch.zeros_like(trimmed[0])
    for i in range(merged.shape[0]):
        for j in range(merged.shape[1]):
            values = [float(part[i, j]) for part in trimmed]
            agree = [v for v in values if v * sum(values) > 0]
            merged[i, j] = sum(agree) / max(len(agree), 1)
    return pivot.double() + u @ merged


def test_tasks_are_merged_in_their_common_basis():
    # all tasks lie in the output direction (3, 4) / 5: coordinates 5 (1, -2), 5 (3, 1), so the
    # sums are 5 (4, -1): the mean of 1 and 3 for the first input, -2 alone for the second
    direction = torch.tensor([[3.0], [4.0]])
    sources = [direction @ torch.tensor([row]) for row in ([1.0, -2.0], [3.0, 1.0])]
    merged = knots(torch.zeros(2, 2), sources)
    assert torch.allclose(merged, direction @ torch.tensor([[2.0, -2.0]]), atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_merge_of_adapters_follows_the_formula(shape, density):
    pivot, sources = adapters(shape)
    merged = knots(pivot, sources, density=density)
    assert torch.allclose(merged.double(), formula(pivot, sources, density), atol=1e-5)


def test_merge_of_full_ranks_follows_the_formula():
    pivot, sources = random_models((12, 9), 3)
    merged = knots(pivot, sources).double()
    assert torch.allclose(merged, formula(pivot, sources, 1.0), atol=1e-6)


def test_basis_has_the_ranks_of_the_adapters_together():
    pivot, sources = adapters(rank=2, n_sources=3)
    tv = [source.double() - pivot.double() for source in sources]
    basis = common_basis(tv, floor=1e-4)
    assert basis.shape == (20, 6)
    assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64), atol=1e-9)
    u, _, _ = torch.linalg.svd(torch.cat(tv, dim=1), full_matrices=False)
    assert torch.allclose(basis @ basis.T, u[:, :6] @ u[:, :6].T, atol=1e-4)


def test_one_adapter_is_the_source_and_lam_scales_it():
    pivot, (source,) = adapters(n_sources=1)
    assert torch.allclose(knots(pivot, [source]), source, atol=1e-5)
    half = knots(pivot, [source], lam=0.5)
    assert torch.allclose(half, (pivot + source) / 2, atol=1e-5)


def test_trim_keeps_the_largest_of_each_row_and_ties_by_index():
    rows = torch.tensor([[1.0, -3.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    assert largest(rows, 0.5).tolist() == [
        [False, True, False, True],
        [True, True, False, False],
    ]
    assert not largest(rows, 0.1).any()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan"), True])
def test_density_outside_the_unit_interval_is_refused(density):
    with pytest.raises(ValueError, match=rf"density must be in \(0, 1\], got {density!r}"):
        knots(torch.ones(1, 1), [torch.ones(1, 1)], density=density)


def test_lora_adapters_are_merged_and_other_weights_stay(make_llama, merge, tmp_path):
    base = open_checkpoint(make_llama(tmp_path / "base", 0), root=tmp_path)
    rng = torch.Generator().manual_seed(0)
    width = base.config["hidden_size"]
    sources = []
    for name in ("first", "second"):
        factors = {
            f"{KEY}.lora_A.weight": torch.randn(2, width, generator=rng),
            f"{KEY}.lora_B.weight": 0.1 * torch.randn(width, 2, generator=rng),
        }
        write_adapter(base.path, factors).rename(tmp_path / name)
        sources.append(opened(tmp_path / name))
    method = partial(merge_knots, density=1.0, lam=1.0, vocabulary="mean")
    merged, _ = merge(method, base, *sources)
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    change = (merged[q_proj] - base.read(q_proj)).double()
    assert torch.linalg.matrix_rank(change, tol=1e-4) == 4  # 2 + 2
    expected = formula(base.read(q_proj), [source.read(q_proj) for source in sources], 1.0)
    assert torch.allclose(merged[q_proj].double(), expected, atol=1e-5)
    assert all(torch.equal(merged[n], base.read(n)) for n in base.names if n != q_proj)
