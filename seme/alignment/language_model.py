"""Language model: a checkpoint run by transformers, which samples texts and shows its stream.

Weights are read as every merge reads them, and run in float32. Of the configuration nothing is
used but what it says of the architecture: no code, no file and no attention kernel that it
names. transformers is imported when a model is built, so that merges that run none start without.

Shape suffixes: B texts of a batch, T tokens of a text, D residual width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place
from seme.checkpoint.protocol import Weights
from seme.checkpoint.regular_file import shown

_ATTENTION_IMPLEMENTATION = "eager"
"""Plain torch: every architecture has it, and a configuration could name one on the Hub."""
_ENTRIES_LEFT_OUT = (
    *("auto_map", "transformers_weights", "fusion_config", "quantization_config"),
    *("return_dict", "output_attentions", "output_hidden_states"),
    *("num_labels", "id2label", "label2id"),
)
"""Entries of config.json by which transformers would load code, other files or modules, return
something else, or keep what nobody reads: names of as many labels as a number says."""
_BEFORE_ATTENTION = (Part.ATTENTION_NORM, Part.Q)
_BEFORE_MLP = (Part.MLP_NORM, Part.GATE, Part.UP)
"""Parts whose input is the residual stream, of which the first that a model has counts: OLMo 2
has no norms there."""
_CONTEXT = ("max_position_embeddings", "n_positions")
_START = ("bos_token_id", "eos_token_id")
_CONTROL = (*_START, "pad_token_id")


class LanguageModel:
    """A checkpoint in memory, float32, run by transformers in evaluation mode."""

    def __init__(self, model: CanonicalModel) -> None:
        """Read all weights.

        Args:
            model: The model as stored, and the device it is run on.

        Raises:
            ValueError: If transformers cannot build the model, or it has other tensors or shapes.
        """
        self._model: Any = _built(model.weights).to(model.device)
        self._device = model.device
        self._path = model.weights.path
        self._modules = _modules_at(self._model, model)

    @torch.no_grad()
    def sample(
        self, ids_BT: Tensor, n_tokens: int, *, never: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """Continue texts with tokens drawn from the model's distribution, at temperature 1.

        Computed on one thread on the CPU, so that no token depends on the number of threads.

        Args:
            ids_BT: Beginnings, int64, at least one token each.
            n_tokens: Tokens of the longer texts.
            never: Tokens that are not drawn.
            rng: On the CPU.

        Returns:
            int64 on the CPU, (B, ``n_tokens``).

        Raises:
            ValueError: If a logit is not finite.
        """
        ids_BT = ids_BT[:, :n_tokens]
        cache, unseen = None, ids_BT
        with _on_one_thread():
            while ids_BT.shape[1] < n_tokens:
                out = self._model(
                    input_ids=unseen.to(self._device), past_key_values=cache, use_cache=True
                )
                cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
                if not bool(logits.isfinite().all()):
                    raise ValueError(
                        f"the logits of {self._path} must be finite for texts to be sampled, got "
                        "NaN or infinity: use alignment.anchors=both"
                    )
                logits[:, list(never)] = -torch.inf
                unseen = torch.multinomial(logits.softmax(dim=-1), 1, generator=rng)
                ids_BT = torch.cat([ids_BT, unseen], dim=1)
        return ids_BT

    @torch.no_grad()
    def states(self, ids_BT: Tensor) -> tuple[Tensor, ...]:
        """Compute the residual stream in front of every block.

        Args:
            ids_BT: Tokens, int64. Texts of different lengths are filled up at their ends, which
                no earlier token sees.

        Returns:
            (B, T, D) in float32 on the device, in front of attention and MLP of layer 0, of
            layer 1 and so on, and of the final norm.
        """
        stream: dict[int, Tensor] = {}

        def keep(point: int) -> Any:  # noqa: ANN401 (a hook of torch)
            def hook(_module: Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
                stream[point] = inputs[0] if inputs else next(iter(named.values()))

            return hook

        hooks = [
            module.register_forward_pre_hook(keep(point), with_kwargs=True)
            for point, module in enumerate(self._modules)
        ]
        try:
            self._model.base_model(input_ids=ids_BT.to(self._device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(stream[point] for point in range(len(self._modules)))


def check_runnable(weights: Weights) -> None:
    """Check that transformers has the architecture that a configuration describes.

    No weights are read.

    Raises:
        ValueError: If it cannot build the model.
    """
    _outline(weights)


def start_token(config: Mapping[str, Any]) -> int | None:
    """Return the token that begins a text, or else the one that ends one; None without either."""
    ids = [token_id for name in _START for token_id in _ids(config, name)]
    return ids[0] if ids else None


def control_tokens(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens that begin, end and fill up texts, sorted."""
    return tuple(sorted({token_id for name in _CONTROL for token_id in _ids(config, name)}))


def context_length(config: Mapping[str, Any], *, at_most: int) -> int:
    """Return the number of tokens that a model may read, as far as the configuration limits it."""
    stated = [config[name] for name in _CONTEXT if isinstance(config.get(name), int)]
    return int(min([at_most, *(n for n in stated if n > 0)]))


def _ids(config: Mapping[str, Any], name: str) -> list[int]:
    value = config.get(name)
    return [
        token_id
        for token_id in (value if isinstance(value, list | tuple) else [value])
        if isinstance(token_id, int) and token_id >= 0
    ]


def _built(weights: Weights) -> Any:  # noqa: ANN401 (a class for each architecture)
    """Build a model of transformers with the weights of a checkpoint, float32, on the CPU."""
    config, kind = _outline(weights)
    with _in_silence():
        model, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict={name: weights.read(name) for name in weights.names},
            dtype=torch.float32,
            attn_implementation=_ATTENTION_IMPLEMENTATION,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the information
        )
    wrong = {reason: sorted(map(str, names)) for reason, names in loading.items() if names}
    if wrong:
        listed = "; ".join(f"{reason}: {names[:3]}" for reason, names in sorted(wrong.items()))
        raise ValueError(
            f"{weights.path}: weights and config.json must give the same tensors and shapes for the "
            f"model to be run, got {listed}; use alignment.anchors=both or head"
        )
    return model.eval()


def _outline(weights: Weights) -> tuple[Any, Any]:
    """Return a model's configuration in transformers, and its class."""
    from transformers import (  # noqa: PLC0415 (see the module)
        CONFIG_MAPPING,
        AutoModelForCausalLM,
    )

    entries = {key: v for key, v in weights.config.items() if key not in _ENTRIES_LEFT_OUT}
    try:
        with _in_silence(), torch.device("meta"):
            config = CONFIG_MAPPING[entries["model_type"]].from_dict(entries)
            config._attn_implementation = config._experts_implementation = None
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=_ATTENTION_IMPLEMENTATION, trust_remote_code=False
            )
    except Exception as error:  # whatever transformers makes of a damaged configuration
        raise ValueError(
            f"transformers cannot run the model that {weights.path / 'config.json'} describes "
            f"({type(error).__name__}: {shown(str(error))}): alignment.anchors=activations needs "
            "that; use both or head"
        ) from error
    return config, type(model)


def _modules_at(built: Module, model: CanonicalModel) -> list[Module]:
    """Find the modules whose inputs are the residual stream, in its order."""
    modules: dict[str, Module] = dict(built.named_modules())
    names = {place: name for name in model.weights.names for place in model.places_of(name)}

    def reader(parts: Sequence[Part], layer: int | None) -> Module:
        name = next(names[p] for part in parts if (p := Place(part, layer)) in names)
        path = name.rpartition(".")[0]
        if path not in modules:
            path = model.family.optional_prefix + path
        return modules[path]

    blocks = [
        reader(parts, layer)
        for layer in range(model.dimensions.n_layers)
        for parts in (_BEFORE_ATTENTION, _BEFORE_MLP)
    ]
    return [*blocks, reader((Part.FINAL_NORM,), None)]


@contextmanager
def _on_one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def _in_silence() -> Iterator[None]:
    """Let transformers print no progress and no warning: what matters is checked."""
    from transformers.utils import logging  # noqa: PLC0415 (see the module)

    was_shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_shown:
            logging.enable_progress_bar()
