"""Bits per byte of a reference solution, given its question."""

from typing import Any


def bits(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    """Log-likelihood and bytes of the solution, as lm-eval's bits_per_byte aggregates them."""
    [(log_likelihood, _)] = results
    return {"bits_per_byte": (log_likelihood, len(solution(doc).encode()))}


def solution(doc: dict[str, Any]) -> str:
    """The reference solution, after the space that ends the prompt."""
    return " " + str(doc["answer"])
