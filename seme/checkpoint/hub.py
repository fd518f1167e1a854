"""Snapshots of models from the Hugging Face Hub, or from its local cache where it does not answer."""

import os
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

_TRUE = {"1", "true", "yes", "on"}
ANSWER_SECONDS = 10.0
"""Longest wait for the Hub's first answer; huggingface_hub itself waits without end (2.4)."""
_RETRY_SECONDS = 60.0
"""The Hub is not asked again so soon after it did not answer."""
_silent_since: list[float] = []


def fetch_snapshot(
    hub_id: str,
    revision: str | None,
    folder: Path,
    *,
    allow: Sequence[str],
    ignore: Sequence[str],
) -> Path:
    """Fetch a snapshot from the Hub, or find it in the local cache when that does not answer.

    Args:
        hub_id: Id of the model.
        revision: Branch, tag or commit; None for the main branch.
        folder: The local folder that was looked for first.
        allow: Glob patterns of files that are fetched.
        ignore: Glob patterns of files that are not.

    Raises:
        ValueError: If neither has the model; says where it was looked for and what to do.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    silent = not offline and not hub_answers()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(allow),
                ignore_patterns=list(ignore),
                local_files_only=offline or silent,
            )
        )
    except Exception as error:  # lost connections raise errors of the HTTP library
        raise ValueError(
            f"{hub_id} is neither a folder ({folder} does not exist) nor a model the Hub "
            f"delivered ({type(error).__name__}): "
            f"{_advice(hub_id, revision, offline, silent, error)}"
        ) from error


def hub_answers() -> bool:
    """Return True if the Hub answers anything at all within ``ANSWER_SECONDS``.

    Asked in a thread: names may take longer to be resolved than any timeout of a connection.
    """
    if _silent_since and time.monotonic() - _silent_since[-1] < _RETRY_SECONDS:
        return False
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_answers()), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if answers == [True]:
        return True
    _silent_since[:] = [time.monotonic()]
    return False


def _answers() -> bool:
    try:
        huggingface_hub.get_session().head(
            huggingface_hub.constants.ENDPOINT, timeout=ANSWER_SECONDS
        )
    except Exception:  # of the HTTP library, or that the Hub's client is offline
        return False
    return True


def _advice(
    hub_id: str, revision: str | None, offline: bool, silent: bool, error: Exception
) -> str:
    """Return what to do about a snapshot that was not fetched."""
    from huggingface_hub.errors import (  # noqa: PLC0415 (loads a client for the web)
        LocalEntryNotFoundError,
    )

    if not (offline or silent or isinstance(error, LocalEntryNotFoundError)):
        return "check the id and the revision, and log in with `hf auth login` if it is gated"
    command = ["hf", "download", hub_id, *(["--revision", revision] if revision else [])]
    folder = f"models--{hub_id.replace('/', '--')}"
    cause = "HF_HUB_OFFLINE is set: unset it" if offline else "the Hub cannot be reached: retry"
    return (
        f"the model is not, or not whole, in the local cache, and {cause}, or run "
        f"`{shlex.join(command)}` on a machine with a network and bring {folder} from its "
        f"cache to {huggingface_hub.constants.HF_HUB_CACHE}"
    )
