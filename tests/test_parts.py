"""Places of parts."""

from seme.architecture.parts import Part, Place


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


def test_a_place_reads_as_words():
    assert str(Place(Part.HEAD)) == "head"
    assert str(Place(Part.Q_BIAS, 3)) == "q_bias of layer 3"
    assert str(Place(Part.EXPERT_UP, 3, 7)) == "expert_up of layer 3, expert 7"


def test_equal_places_are_one_key():
    assert {Place(Part.Q, 1): "a"}[Place(Part.Q, 1)] == "a"
