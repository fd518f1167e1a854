"""Load a model folder for scoring: all of it and nothing else, or an error."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from eval.hf_offline import go_offline

go_offline()  # the libraries below read their switches when they are imported

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from eval.suite import Suite  # noqa: E402

_logger = logging.getLogger(__name__)

_LOADING_ENTRIES = ("transformers_weights", "fusion_config")
"""Entries of config.json by which transformers would load other files or modules."""
_ADAPTER = "adapter_config.json"
_MOST_CHARACTERS = 300
"""Characters kept of another library's error."""
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "float16": ("avx512_fp16", "amx_fp16"),
}
"""Names in ``torch.cpu.get_capabilities()`` of what multiplies such numbers on an x86."""


def load_model(folder: Path, *, device: str, dtype: str | None = None) -> PreTrainedModel:
    """Load a causal language model from a folder, in evaluation mode.

    Args:
        folder: Absolute path of a model folder with safetensors weights.
        device: A torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None is float32 on the CPU, elsewhere
            the checkpoint's own.

    The implementation of attention is transformers' own for the architecture, torch's fused one
    or else the plain one: a configuration could name one on the Hub, which would be fetched and
    run. Nor does a configuration choose other files, modules or kernels.

    Raises:
        ValueError: If transformers cannot read the configuration or build its model, if that
            model is larger than the weights, if the weights and the configuration do not name
            the same tensors, if an output head that should be tied is not, or if a weight is
            not finite.
    """
    if (folder / _ADAPTER).exists():
        raise ValueError(
            f"{folder} holds {_ADAPTER}, an adapter that transformers would add to the model: "
            "move it to a folder of its own"
        )
    config = _read_config(folder)
    outline = _outline(folder, config)
    if device == "cpu" and dtype is not None:
        _warn_of_slow(dtype)
    load: Any = AutoModelForCausalLM.from_pretrained  # its types forget the loading info
    model, loading = load(
        folder,
        config=config,
        attn_implementation=outline.config._attn_implementation,  # "sdpa" or "eager"
        dtype=dtype or ("float32" if device == "cpu" else "auto"),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    _check_complete(folder, loading)
    _check_tied(folder, model)
    _check_finite(folder, model)
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


@cache  # once a process, not once a model
def _warn_of_slow(dtype: str) -> None:
    """Warn where the processor has no instructions for a precision."""
    names = _INSTRUCTIONS.get(dtype, ())
    has = torch.cpu.get_capabilities()
    if names and all(has.get(name) is False for name in names):  # absent on other processors
        _logger.warning(
            "this processor has no instructions for %s (%s): scoring in float32 "
            "(suite.dtype=float32) may be several times faster; its scores differ slightly and "
            "are ranked apart",
            dtype,
            ", ".join(names),
        )


def _read_config(folder: Path) -> Any:  # noqa: ANN401 (a class for each architecture)
    """Read a configuration, without what it says of how to load the model."""
    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers makes of a damaged file
        raise ValueError(
            f"{folder / 'config.json'} cannot be read by transformers "
            f"({type(error).__name__}): {_brief(error)}"
        ) from error
    config._attn_implementation = config._experts_implementation = None  # of sub-models too
    for name in _LOADING_ENTRIES:
        if hasattr(config, name):
            delattr(config, name)
    return config


def _outline(folder: Path, config: Any) -> PreTrainedModel:  # noqa: ANN401
    """Build the model without memory, and check that its weights are there."""
    try:
        with torch.device("meta"):
            outline: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, attn_implementation=None, trust_remote_code=False
            )
    except Exception as error:  # whatever transformers makes of impossible sizes
        raise ValueError(
            f"{folder}: transformers cannot build the model that config.json describes "
            f"({type(error).__name__}): {_brief(error)}"
        ) from error
    n_parameters = sum(parameter.numel() for parameter in outline.parameters())
    n_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if n_parameters > n_bytes:
        raise ValueError(
            f"{folder}: config.json describes a model of {n_parameters:,} parameters, but all "
            f"weights together have {n_bytes:,} bytes: the two are not of one model"
        )
    return outline


def _brief(error: Exception) -> str:
    """Return the beginning of a message of transformers, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder exactly as its files describe it.

    AutoTokenizer may pick the class of the model's family and with it another pre-tokenizer,
    so a folder that names the generic class gets the generic class.

    Raises:
        ValueError: If the folder has no ``tokenizer_config.json``, or transformers cannot read
            the tokenizer.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} must hold tokenizer_config.json to be evaluated; it is absent"
        )
    try:
        named = dict(json.loads(path.read_text(encoding="utf-8"))).get("tokenizer_class")
        cls = PreTrainedTokenizerFast if named in _GENERIC_CLASSES else AutoTokenizer
        tokenizer: PreTrainedTokenizerBase = cls.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers makes of a damaged file
        raise ValueError(
            f"the tokenizer in {folder} cannot be read by transformers "
            f"({type(error).__name__}): {_brief(error)}"
        ) from error
    return tokenizer


def check_chat_template(folder: Path, suite: Suite) -> None:
    """Check that a model's tokenizer has the chat template that a suite asks for.

    Raises:
        ValueError: If it has none, none of that name, or one that refuses the suite's system
            instruction.
    """
    if not suite.chat_template:
        return
    tokenizer = load_tokenizer(folder)
    template = named_chat_template(tokenizer, suite.chat_template, folder=folder)
    if suite.system_instruction is None:
        return
    messages = [
        {"role": "system", "content": suite.system_instruction},
        {"role": "user", "content": "?"},
    ]
    try:
        tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception as error:  # whatever a template raises
        raise ValueError(
            f"{folder}: the chat template refuses a system message ({error}); leave "
            "suite.system_instruction out"
        ) from error


def named_chat_template(
    tokenizer: PreTrainedTokenizerBase, chosen: bool | str, *, folder: Path
) -> str | None:
    """Return the chat template of a tokenizer that a suite names; None is its only one.

    Args:
        tokenizer: The tokenizer.
        chosen: False for none, True for the tokenizer's own or the one called default, or a
            name.
        folder: Where the tokenizer is from, for messages.

    Raises:
        ValueError: If there is no such template.
    """
    templates: Any = tokenizer.chat_template
    if not chosen or (chosen is True and isinstance(templates, str)):
        return None
    if templates is None:
        raise ValueError(
            f"suite.chat_template={str(chosen).lower()}: the tokenizer in {folder} has no chat "
            "template; set suite.chat_template=false, or add chat_template.jinja to the folder"
        )
    named = {"default": templates} if isinstance(templates, str) else templates
    name = "default" if chosen is True else chosen
    if name not in named:
        raise ValueError(
            f"suite.chat_template must be one of {sorted(named)} in {folder}, got {name!r}"
        )
    template: str = named[name]
    return template


def _check_complete(folder: Path, loading: dict[str, Any]) -> None:
    """Refuse a checkpoint that left a parameter at random or was read in part."""
    wrong = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if wrong:
        raise ValueError(
            f"{folder}: weights and config.json must name the same tensors, got "
            + "; ".join(f"{kind}: {names[:5]}" for kind, names in sorted(wrong.items()))
        )


def _check_tied(folder: Path, model: Any) -> None:  # noqa: ANN401 (its accessors are untyped)
    """Refuse a head of its own under ``tie_word_embeddings``: lm-eval would tie it again."""
    if not model.config.get_text_config().tie_word_embeddings:
        return
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and not torch.equal(head.weight, embedding.weight):
        raise ValueError(
            f"{folder}: config.json says tie_word_embeddings but the output head differs from "
            "the embeddings; write tie_word_embeddings: false"
        )


def _check_finite(folder: Path, model: PreTrainedModel) -> None:
    """Refuse NaN and infinity: such a model scores like chance."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"{folder}: {name} must be finite, it holds NaN or infinity in {weight.dtype}"
            )
