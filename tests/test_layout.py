"""Parts of one stored tensor: fused, interleaved, transposed."""

import pytest
import torch

from seme.architecture.parts import Part, Stored, fuse, split

QKV = (Part.Q, Part.K, Part.V)


def test_fused_parts_lie_one_below_the_other():
    tensor = torch.tensor([[1], [2], [3], [4]])
    q, k, v = split(tensor, Stored(parts=QKV), rows=[2, 1, 1], head_dim=1)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([[1], [2]], [[3]], [[4]])


def test_interleaved_parts_alternate_head_by_head():
    # two heads of two dimensions: q0 k0 v0 q1 k1 v1
    tensor = torch.arange(12)
    stored = Stored(parts=QKV, interleaved=True)
    q, k, v = split(tensor, stored, rows=[4, 4, 4], head_dim=2)
    assert q.tolist() == [0, 1, 6, 7]
    assert k.tolist() == [2, 3, 8, 9]
    assert v.tolist() == [4, 5, 10, 11]


def test_a_transposed_tensor_is_turned_into_outputs_by_inputs():
    tensor = torch.tensor([[1, 2, 3]])  # one input, three outputs
    q, k, v = split(tensor, Stored(parts=QKV, transposed=True), rows=[1, 1, 1], head_dim=1)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([[1]], [[2]], [[3]])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_fusing_what_was_split_gives_the_tensor_back(interleaved, transposed):
    stored = Stored(parts=QKV, interleaved=interleaved, transposed=transposed)
    tensor = torch.arange(36 * 5).reshape((5, 36) if transposed else (36, 5))
    pieces = split(tensor, stored, rows=[12, 12, 12], head_dim=3)
    assert [tuple(piece.shape) for piece in pieces] == [(12, 5)] * 3
    again = fuse(pieces, stored, head_dim=3)
    assert torch.equal(again, tensor)
    assert again.is_contiguous()
