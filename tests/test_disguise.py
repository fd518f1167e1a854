import pytest

from scripts.disguise import main
from seme.checkpoint.reader import open_checkpoint
from tests.disguise import assert_same_logits
from tests.tiny_models import save_tiny


@pytest.fixture
def models(tmp_path, capsys):
    base, copy = tmp_path / "base", tmp_path / "copy"
    save_tiny(base, "llama")
    assert main([str(base), str(copy)]) == 0
    assert "in disguise" in capsys.readouterr().out
    return base, copy


def test_disguised_copy_has_equal_logits_and_other_weights(models):
    base, copy = models
    assert_same_logits(copy, base)
    first, second = (open_checkpoint(folder, root=folder) for folder in models)
    name = "model.embed_tokens.weight"
    assert (first.read(name) - second.read(name)).abs().max() > 0.01


def test_an_existing_folder_is_not_overwritten(models, capsys):
    base, copy = models
    assert main([str(base), str(copy)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([str(base)]) == 2
