"""An expert and the base it was fine-tuned from: one shape, the same tokens, other weights."""

import math
from collections.abc import Sequence

import torch

from seme.ancestry import resemblance
from seme.architecture.families import EMBEDDINGS
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.renamed import in_names_of
from seme.checkpoint.tokenizer_files import vocabulary_files
from seme.compatibility import differences
from seme.embedding_rows import vocabulary_tensors
from seme.interface import CheckpointMismatchError
from seme.streaming import CPU_BLOCK
from seme.token_rows import match_tokenizers

_N_NAMED = 3


def check_pair(index: int, expert: AnyCheckpoint, base: Checkpoint, *, heads: bool) -> None:
    """Refuse a base that is not of its expert's shape and tokens.

    Args:
        index: Place of the expert among the sources, for the message.
        expert: The source.
        base: What it was fine-tuned from.
        heads: Allow an LM head of the expert alone, as a merge may have that SeMe made: the
            base's is its embedding, and where models are rewritten both are read as heads. Where
            they are not, :meth:`seme.own_base.FittedSources.moved` refuses it.

    Raises:
        CheckpointMismatchError: If they differ in tensors, configuration or tokens.
    """
    named = in_names_of(base, expert)
    own_heads = set(vocabulary_tensors(named)) - set(base.names) if heads else set()
    lines = differences(base, named, exclude=sorted(own_heads))
    if lines:
        more = f"\n  and {len(lines) - _N_NAMED} more" if len(lines) > _N_NAMED else ""
        first = "".join(f"\n  {line}" for line in lines[:_N_NAMED])
        raise CheckpointMismatchError(
            f"{describe(index, expert)} is not of the shape of its base ({base.path}):{first}{more}\n"
            "give the model that it was fine-tuned from"
        )
    of_base, of_expert = base.tokenizer_folder, expert.tokenizer_folder
    if not (vocabulary_files(of_base) and vocabulary_files(of_expert)):
        return
    n_rows = max((base.shape(name)[0] for name in vocabulary_tensors(base)), default=0)
    match = match_tokenizers(of_base, of_expert)
    if match is not None and (ids := match.differing(n_rows, n_rows)):
        raise CheckpointMismatchError(
            f"{describe(index, expert)} has another tokenizer than its base ({base.path}): "
            f"{len(ids)} ids are of other tokens, id {ids[0]} for one; give the model that it was "
            "fine-tuned from"
        )


def demand_changes(
    sources: Sequence[AnyCheckpoint], bases: Sequence[Checkpoint | None]
) -> list[str]:
    """Refuse sources that are equal to their base, and describe those that are too far from it.

    Reads a sample of both, and as many tensors as it takes to find one that differs.

    Returns:
        One line for each source whose task vector is longer than its base.

    Raises:
        ValueError: If a task vector is zero.
    """
    warnings = []
    for i, (source, base) in enumerate(zip(sources, bases, strict=True)):
        if base is None:
            continue
        expert = in_names_of(base, source)
        names = [name for name in base.names if base.dtype(name).is_floating_point]
        differ = (_differs(expert, name, base, name) for name in names)
        if not (any(differ) or _has_another_head(expert, base)):
            raise ValueError(
                f"{describe(i, source)} equals its base ({base.path}) in every weight: its task "
                "vector is zero, and nothing would be merged; give the model that it was "
                "fine-tuned from"
            )
        likeness = resemblance(base, expert, names)
        if likeness is not None and likeness.distance > 1:
            warnings.append(
                f"{describe(i, source)} does not look like a fine-tune of its base ({base.path}): "
                f"its task vector is {likeness.distance:.2f} times as long as the base, the cosine "
                f"of their weights {likeness.cosine:.2f} ({likeness.n_elements} elements of "
                f"{likeness.n_tensors} matrices; fine-tunes have a length well below 1 and a "
                "cosine near 1): check the base"
            )
    return warnings


def _has_another_head(expert: Weights, base: Weights) -> bool:
    """Return True if an expert has a head that its base has not and that is not the embedding."""
    embeddings = [name for name in base.names if name.endswith(EMBEDDINGS)]
    return any(
        all(_differs(expert, head, base, embedding) for embedding in embeddings)
        for head in set(vocabulary_tensors(expert)) - set(base.names)
    )


def _differs(expert: Weights, name: str, base: Weights, base_name: str) -> bool:
    if expert.shape(name) != base.shape(base_name):
        return True
    own, other = expert.opened(name), base.opened(base_name)
    n = math.prod(base.shape(base_name))
    return any(
        not torch.equal(own.read(*span).float(), other.read(*span).float())
        for span in ((i, min(i + CPU_BLOCK, n)) for i in range(0, n, CPU_BLOCK))
    )
