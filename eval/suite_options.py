"""Checks of a suite's options: prompts, generation, batches, precision."""

import re
from collections.abc import Mapping
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
"""Precisions that a suite may ask for."""

_TOKENS = re.compile(r"([1-9][0-9]*) tokens")
_ANSWER_LENGTHS = ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_length")
"""Names of the longest answer in other libraries; lm-eval prefers ``max_gen_toks`` to them."""


def tokens_per_batch(batch_size: int | str) -> int | None:
    """Return N of the batch size ``"N tokens"``, None of others."""
    match = _TOKENS.fullmatch(str(batch_size))
    return None if match is None else int(match[1])


def check_options(options: Mapping[str, Any]) -> None:
    """Check the entries of a suite that say how its tasks are asked and run.

    Raises:
        ValueError: If a value is not one of the choices, or has no effect with the others.
    """
    _check_prompts(options)
    _check_generation(options["gen_kwargs"])
    batch_size = options["batch_size"]
    if batch_size != "auto" and tokens_per_batch(batch_size) is None:
        whole_number("batch_size", batch_size, at_least=1, why=", auto or 'N tokens'")
    if options["max_length"] is not None:
        whole_number("max_length", options["max_length"], at_least=2, why=" tokens")
    if options["dtype"] not in (None, *DTYPES):
        raise ValueError(f"suite.dtype must be null or in {DTYPES}, got {options['dtype']!r}")
    _switch("allow_code_execution", options["allow_code_execution"])


def frozen(entries: Any) -> tuple[tuple[str, Any], ...]:  # noqa: ANN401 (any YAML)
    """Make a mapping sorted pairs, its lists tuples.

    Raises:
        ValueError: If it is no mapping, or holds one.
    """
    if not isinstance(entries, Mapping):
        raise ValueError(
            f"gen_kwargs must be a mapping such as {{max_gen_toks: 64}}, got {entries!r}"
        )
    return tuple((str(key), _as_tuple(entries[key])) for key in sorted(entries))


def thawed(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Return the mapping of pairs that ``frozen`` made, its values lists again."""
    return {key: _as_list(value) for key, value in pairs}


def whole_number(
    key: str,
    value: Any,  # noqa: ANN401 (any YAML)
    *,
    at_least: int,
    why: str = "",
) -> None:
    """Refuse what is no whole number, or too small.

    Args:
        key: Entry of the suite.
        value: Its value.
        at_least: The smallest allowed.
        why: Reason or alternatives, put after the number.
    """
    if type(value) is not int or value < at_least:
        raise ValueError(
            f"{key} must be a whole number of at least {at_least}{why}, got {value!r}"
        )


def _as_tuple(value: Any) -> Any:  # noqa: ANN401 (any YAML)
    if isinstance(value, Mapping):
        raise ValueError(f"gen_kwargs must hold no mappings, got {value!r}")
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _as_list(value: Any) -> Any:  # noqa: ANN401 (any YAML)
    return list(map(_as_list, value)) if isinstance(value, tuple) else value


def _check_prompts(options: Mapping[str, Any]) -> None:
    template, instruction = options["chat_template"], options["system_instruction"]
    if not isinstance(template, bool) and not (isinstance(template, str) and template):
        raise ValueError(
            f"chat_template must be true, false or the name of a template, got {template!r}"
        )
    if instruction is not None and not (isinstance(instruction, str) and instruction):
        raise ValueError(f"system_instruction must be a text or null, got {instruction!r}")
    multiturn = options["fewshot_as_multiturn"]
    if multiturn is not None:
        _switch("fewshot_as_multiturn", multiturn)
    if multiturn and not template:
        raise ValueError(
            "fewshot_as_multiturn needs a chat template: set chat_template=true, or leave it out"
        )
    if options["num_fewshot"] is not None:
        whole_number("num_fewshot", options["num_fewshot"], at_least=0)


def _check_generation(gen_kwargs: tuple[tuple[str, Any], ...]) -> None:
    if others := [key for key, _ in gen_kwargs if key in _ANSWER_LENGTHS]:
        raise ValueError(f"gen_kwargs: the longest answer is max_gen_toks, got {others}")


def _switch(key: str, value: Any) -> None:  # noqa: ANN401 (any YAML)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {value!r}")
