"""Activations as anchors: the residual streams of two models on texts that the pivot samples.

Ours: Procrustes between the states of two models, besides their heads and embeddings. No data is
needed: the texts are the pivot's own. States are compared in front of every attention, every MLP
and the final norm; layers of different depth are paired by the interpolation of
:mod:`seme.alignment.layers`.

Shape suffixes: B texts of a batch, T tokens of a text, N paired tokens, P the pivot's residual
width, K the source's.
"""

import math
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seme.alignment.language_model import (
    LanguageModel,
    check_runnable,
    context_length,
    control_tokens,
    start_token,
)
from seme.alignment.layers import layer_shares
from seme.alignment.options import Sampling
from seme.alignment.paired_texts import (
    PairedTexts,
    paired_by_character,
    readers_of,
    same_tokens,
    tokenizer_file,
)
from seme.alignment.residual_map import embedding_operator
from seme.alignment.tokens import SharedTokens
from seme.architecture.families import count
from seme.architecture.model import CanonicalModel
from seme.budget import demand
from seme.checkpoint.protocol import Weights

N_TEXTS = 96
"""Texts that the pivot samples."""
N_TOKENS = 96
"""Tokens of each, with the first; fewer where the context is shorter."""
_MOST_TIMES = 2
"""Longest text as another tokenizer cuts it, in ``N_TOKENS``: the rest of it is not read."""
_BATCH = 16
"""Texts run together, whatever the memory: the rounding of a state must not depend on it."""
_BLOCK_ROWS = 2048
_FLOAT32_BYTES = 4
_INNER_WIDTHS = 40
"""Widths of all that a block computes for a token beside its stream: queries, keys and values,
an MLP of four widths and its products (counted in Llama's code, rounded up)."""
_ATTENTION_COPIES = 3
"""Copies of the attention weights: products, with the mask added, and their softmax."""
_HEADS = ("num_attention_heads", "n_head")
_LAYER = re.compile(r"\.(\d+)\.")


class PivotTexts:
    """Texts that a pivot samples, once for all sources that read them at one length."""

    def __init__(self, pivot: CanonicalModel, sampling: Sampling) -> None:
        """Sample nothing yet.

        Args:
            pivot: The pivot.
            sampling: Seed of the texts, and the memory.
        """
        self.pivot = pivot
        self.sampling = sampling
        self._sampled: dict[int, Tensor] = {}

    def sample(self, model: LanguageModel, length: int) -> Tensor:
        """Return the texts of a length; see :func:`sample_texts`, which ``model`` is for."""
        if length not in self._sampled:
            self._sampled[length] = sample_texts(
                model, self.pivot, length, seed=self.sampling.seed
            )
        return self._sampled[length]


def activations_operator(
    texts: PivotTexts, source: CanonicalModel, tokens: SharedTokens | None
) -> tuple[Tensor, int]:
    """Sum h^P (h^k)^T over points of the stream, h the unit states, averaged over paired tokens.

    Args:
        texts: The pivot, and the texts that it samples.
        source: The source.
        tokens: None where both have one vocabulary.

    Returns:
        M in float64, (P, K), and the number of points, of weight one each: two in each layer of
        the pivot and one at the end.

    Raises:
        ValueError: If the memory is too small, transformers cannot run a model, a tokenizer tells
            no characters, every token is a control token, no token is paired, or a logit or a
            state is not finite.
    """
    pivot = texts.pivot
    demand(
        activations_bytes(pivot.weights, source.weights, same_tokens=tokens is None),
        texts.sampling.memory_budget,
        "running the pivot and a source for alignment.anchors=activations",
    )
    readers = (
        None
        if tokens is None
        else readers_of(pivot, source, at_most=_longest(same_tokens=False))
    )
    length = context_length(pivot.weights.config, at_most=N_TOKENS)
    if readers is None:  # the source reads the pivot's tokens
        length = context_length(source.weights.config, at_most=length)
    for each in (pivot, source):  # before one is read
        check_runnable(each.weights)
    model = LanguageModel(pivot)
    sampled = texts.sample(model, length)
    batches = [
        same_tokens(ids_BT) if readers is None else paired_by_character(ids_BT, *readers)
        for ids_BT in torch.split(sampled, _BATCH)
    ]
    n_paired = sum(len(batch.pivot_places) for batch in batches)
    if n_paired == 0:
        reason = (
            f"the texts have no second token, as pivot and source read {length} at most"
            if readers is None
            else "no two tokens of its tokenizer and the source's end at the same character"
        )
        raise ValueError(
            f"on the texts that the pivot samples {reason}: use alignment.anchors=both"
        )
    batches = [batch for batch in batches if len(batch.pivot_places)]
    states = [_states(model, batch.pivot_ids, batch.pivot_places) for batch in batches]
    del model  # before the other is read
    total_PK = _sum(states, LanguageModel(source), batches, _points(pivot, source))
    return total_PK / n_paired, 2 * pivot.dimensions.n_layers + 1


def sample_texts(
    model: LanguageModel, pivot: CanonicalModel, length: int, *, seed: int
) -> Tensor:
    """Sample texts from the pivot.

    Each begins with the token that begins a text, where there is one, and a token drawn evenly
    from the vocabulary; the others are drawn from the model's distribution. Control tokens are
    never drawn.

    Args:
        model: The pivot, to be run.
        pivot: The same model: its configuration and its sizes.
        length: Tokens of a text, at least 1.
        seed: Equal seeds sample equal texts on one machine.

    Returns:
        int64 on the CPU, ``N_TEXTS`` rows of ``length``.

    Raises:
        ValueError: If every token is a control token, or a logit is not finite.
    """
    rng = torch.Generator().manual_seed(seed)
    config, n_rows = pivot.weights.config, pivot.dimensions.n_tokens
    never = [token_id for token_id in control_tokens(config) if token_id < n_rows]
    if len(never) == n_rows:
        raise ValueError(
            f"{pivot.weights.path / 'config.json'} must leave tokens that neither begin, end nor "
            f"fill up texts for texts to be sampled, got all {n_rows} as such: use "
            "alignment.anchors=both"
        )
    drawn_evenly = torch.ones(n_rows)
    drawn_evenly[never] = 0
    first = torch.multinomial(drawn_evenly, N_TEXTS, replacement=True, generator=rng)[:, None]
    start = start_token(config)
    if start is not None and start < n_rows:
        first = torch.cat([torch.full((N_TEXTS, 1), start), first], dim=1)
    return torch.cat(
        [
            model.sample(ids_BT, length, never=never, rng=rng)
            for ids_BT in torch.split(first, _BATCH)
        ]
    )


def reasons_not_to_run(pivot: Weights, source: Weights, *, same_tokens: bool) -> list[str]:
    """List why :func:`activations_operator` would refuse two models, from their files alone.

    Args:
        pivot: The pivot; its weights are not read.
        source: The source, likewise.
        same_tokens: They have one vocabulary.
    """
    reasons = []
    for model in (pivot, source):
        try:
            check_runnable(model)
            if not same_tokens:
                tokenizer_file(model.tokenizer_folder)
        except ValueError as error:
            reasons.append(str(error))
    return reasons


def activations_bytes(pivot: Weights, source: Weights, *, same_tokens: bool) -> int:
    """Estimate the memory of :func:`activations_operator`: one model in float32 at a time.

    Beside it the pivot's states on all texts, and of one batch all states, the cached keys and
    values and what a block computes, attention weights included.

    Args:
        pivot: The pivot.
        source: The source.
        same_tokens: They have one vocabulary. Otherwise each may read more tokens.
    """
    length = _longest(same_tokens=same_tokens)
    kept = _states_bytes(pivot, N_TEXTS, length)
    return kept + max(
        _model_bytes(model) + _batch_bytes(model, length) for model in (pivot, source)
    )


def _longest(*, same_tokens: bool) -> int:
    """Return the most tokens of a text that a model is run on."""
    return N_TOKENS if same_tokens else _MOST_TIMES * N_TOKENS


def _model_bytes(model: Weights) -> int:
    """Weights as stored and in float32."""
    return sum(
        math.prod(model.shape(n)) * (model.dtype(n).itemsize + _FLOAT32_BYTES)
        for n in model.names
    )


def _states_bytes(model: Weights, n_texts: int, length: int) -> int:
    points = 2 * _n_layers(model) + 1
    return points * n_texts * length * _width(model) * _FLOAT32_BYTES


def _batch_bytes(model: Weights, length: int) -> int:
    n_rows = max(model.shape(name)[0] for name in model.names if model.shape(name))
    cached = 2 * _n_layers(model) * _width(model)
    tokens = _BATCH * length * (cached + _INNER_WIDTHS * _width(model))
    attention = _ATTENTION_COPIES * _BATCH * count(model.config, *_HEADS) * length**2
    logits = 4 * _BATCH * n_rows
    products = 4 * _width(model) ** 2
    elements = tokens + attention + logits + products
    return _states_bytes(model, _BATCH, length) + elements * _FLOAT32_BYTES


def _n_layers(model: Weights) -> int:
    return 1 + max((int(n[1]) for name in model.names if (n := _LAYER.search(name))), default=0)


def _width(model: Weights) -> int:
    """Width of the largest tensor, embedding or head as a rule; at most a few times the model's."""
    largest = max(model.names, key=lambda name: math.prod(model.shape(name)))
    return min(model.shape(largest), default=1)


def _states(model: LanguageModel, ids_BT: Tensor, places: Tensor) -> list[Tensor]:
    """Compute the states of some tokens of a batch, (N, width) at each point of the stream."""
    states = [state.flatten(0, 1)[places.to(state.device)] for state in model.states(ids_BT)]
    if not all(bool(state.isfinite().all()) for state in states):
        raise ValueError(
            "the residual streams of pivot and source must be finite to be anchors, got NaN or "
            "infinity on a text that the pivot sampled: use alignment.anchors=both"
        )
    return states


def _points(pivot: CanonicalModel, source: CanonicalModel) -> Iterator[tuple[int, int, float]]:
    """Pair the points of two streams: the pivot's, the source's, and the share of the pair."""
    n_pivot, n_source = pivot.dimensions.n_layers, source.dimensions.n_layers
    for layer in range(n_pivot):
        for source_layer, share in layer_shares(layer, n_pivot=n_pivot, n_source=n_source):
            yield 2 * layer, 2 * source_layer, share
            yield 2 * layer + 1, 2 * source_layer + 1, share
    yield 2 * n_pivot, 2 * n_source, 1.0


def _sum(
    pivot_states: Sequence[Sequence[Tensor]],
    source: LanguageModel,
    batches: Sequence[PairedTexts],
    points: Iterator[tuple[int, int, float]],
) -> Tensor:
    pairs = list(points)
    terms = (
        share
        * embedding_operator(of_pivot[i], of_source[j], None, None, block_rows=_BLOCK_ROWS)
        for of_pivot, batch in zip(pivot_states, batches, strict=True)
        for of_source in [_states(source, batch.source_ids, batch.source_places)]
        for i, j, share in pairs
    )
    return sum(terms, start=torch.zeros((), dtype=torch.float64))
