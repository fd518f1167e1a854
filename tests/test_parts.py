"""Places of parts."""

import pytest
import torch

from seme.architecture.parts import Part, Place, Stored, fuse, split


def test_places_are_ordered_by_layer_then_expert_then_part():
    ordered = [
        Place(Part.EMBEDDING),
        Place(Part.HEAD),
        Place(Part.Q, 0),
        Place(Part.V, 0),
        Place(Part.EXPERT_UP, 0, 1),
        Place(Part.EXPERT_DOWN, 0, 2),
        Place(Part.K, 1),
        Place(Part.K, 10),
    ]
    backwards = ordered[::-1]
    assert sorted(backwards) == ordered


def test_place_has_a_readable_name():
    assert str(Place(Part.HEAD)) == "head"
    assert str(Place(Part.Q_BIAS, 3)) == "q_bias of layer 3"
    assert str(Place(Part.EXPERT_UP, 3, 7)) == "expert_up of layer 3, expert 7"


def test_equal_places_have_equal_hashes():
    assert {Place(Part.Q, 1): "a"}[Place(Part.Q, 1)] == "a"


QKV = (Part.Q, Part.K, Part.V)


def test_fused_parts_are_stacked_rows():
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


def test_transposed_tensor_becomes_outputs_by_inputs():
    tensor = torch.tensor([[1, 2, 3]])  # one input, three outputs
    q, k, v = split(tensor, Stored(parts=QKV, transposed=True), rows=[1, 1, 1], head_dim=1)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([[1]], [[2]], [[3]])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_fuse_inverts_split(interleaved, transposed):
    stored = Stored(parts=QKV, interleaved=interleaved, transposed=transposed)
    tensor = torch.arange(36 * 5).reshape((5, 36) if transposed else (36, 5))
    pieces = split(tensor, stored, rows=[12, 12, 12], head_dim=3)
    assert [tuple(piece.shape) for piece in pieces] == [(12, 5)] * 3
    again = fuse(pieces, stored, head_dim=3)
    assert torch.equal(again, tensor)
    assert again.is_contiguous()
