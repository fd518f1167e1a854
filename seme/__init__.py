"""Merge engine, and SeMe: merging by semantic alignment.

``from seme import merge`` is :func:`seme_bench.merging.merge`, which records what it merges; it
is loaded when it is first asked for, and nothing else here knows of records.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seme_bench.merging import merge

__all__ = ["merge"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562)
    if name == "merge":
        from seme_bench.merging import merge  # noqa: PLC0415 (loads the records)

        return merge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
