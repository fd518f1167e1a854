import pytest

from seme.alignment.layers import layer_shares


def test_models_of_one_depth_take_layer_for_layer():
    assert [layer_shares(i, n_pivot=5, n_source=5) for i in range(5)] == [
        ((i, 1.0),) for i in range(5)
    ]


def test_layers_between_are_shared_by_their_neighbours():
    # 5 layers onto 3: positions 0, 0.5, 1, 1.5, 2
    assert [layer_shares(i, n_pivot=5, n_source=3) for i in range(5)] == [
        ((0, 1.0),),
        ((0, 0.5), (1, 0.5)),
        ((1, 1.0),),
        ((1, 0.5), (2, 0.5)),
        ((2, 1.0),),
    ]


def test_a_deeper_source_is_thinned_out():
    # 3 layers onto 4: positions 0, 1.5, 3
    assert layer_shares(1, n_pivot=3, n_source=4) == ((1, 0.5), (2, 0.5))


@pytest.mark.parametrize(("n_pivot", "n_source"), [(2, 7), (7, 2), (24, 28), (4, 3), (1, 1)])
def test_ends_meet_and_shares_sum_to_one(n_pivot, n_source):
    shares = [layer_shares(i, n_pivot=n_pivot, n_source=n_source) for i in range(n_pivot)]
    assert shares[0] == ((0, 1.0),)
    assert shares[-1] == ((n_source - 1, 1.0),)
    assert all(sum(share for _, share in found) == pytest.approx(1) for found in shares)
    assert all(0 <= layer < n_source for found in shares for layer, _ in found)


def test_a_source_of_one_layer_stands_everywhere():
    assert {layer_shares(i, n_pivot=3, n_source=1) for i in range(3)} == {((0, 1.0),)}


@pytest.mark.parametrize(("layer", "n_pivot", "n_source"), [(3, 3, 3), (-1, 3, 3), (0, 1, 0)])
def test_a_layer_that_is_not_there_is_an_error(layer, n_pivot, n_source):
    with pytest.raises(ValueError, match=f"one of the pivot's {n_pivot}.*layer {layer}"):
        layer_shares(layer, n_pivot=n_pivot, n_source=n_source)
