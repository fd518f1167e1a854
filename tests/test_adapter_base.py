"""The base that an adapter names, against the base it is given."""

import pytest

from seme.checkpoint.adapter_base import disagreement

BASE = "org/base"
IN_CACHE = "hub/models--org--base/snapshots/0123"


def compared(root, given, *, named=BASE, revision=None, trained_at=None):
    config = {"base_model_name_or_path": named, "revision": trained_at}
    return disagreement(config, given, revision, root=root)


@pytest.mark.parametrize("given", ["other/base", "hub/models--other--base/snapshots/0123"])
def test_another_hub_model_is_told(tmp_path, given):
    found = compared(tmp_path, given)
    assert found.startswith("the adapter was trained on org/base, ")
    assert "applied to other/base" in found


@pytest.mark.parametrize("given", [BASE, "Org/Base", IN_CACHE, "some/folder/base", "base"])
def test_same_or_unknown_base_is_not(tmp_path, given):
    assert compared(tmp_path, given) is None


def test_names_that_are_folders_are_not_hub_ids(tmp_path):
    (tmp_path / "other" / "base").mkdir(parents=True)
    assert compared(tmp_path, "other/base") is None
    assert compared(tmp_path, "third/base", named="other/base") is None
    assert compared(tmp_path, "third/base", named="/home/of/trainer") is None
    assert compared(tmp_path, "third/base", named=None) is None


def test_another_revision_is_told(tmp_path):
    found = compared(tmp_path, BASE, revision="v2", trained_at="v1")
    assert found.startswith("the adapter was trained on revision v1 of org/base")
    assert compared(tmp_path, BASE, revision="v1", trained_at="v1") is None
    assert compared(tmp_path, BASE, revision=None, trained_at="v1") is None
