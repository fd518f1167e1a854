"""Upload of a kept merge to the Hub, into a private repository, by its own client."""

import os
import shlex
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from seme.publishing.manifest import MANIFEST_NAME
from seme.publishing.verification import verify_folder


def check_push(repository: object, merged_dir: str | None) -> None:
    """Check the entry ``push`` before anything is merged.

    Raises:
        ValueError: If it is no ``ORG/NAME``, the merge is not kept, or runs are offline.
    """
    if repository is None:
        return
    try:
        if not isinstance(repository, str) or repository.count("/") != 1:
            raise HFValidationError("no organisation or account")
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(
            f"push must be ORG/NAME of a repository on the Hub, got {repository!r:.80}"
        ) from error
    if merged_dir is None:
        raise ValueError("push needs merged_dir=FOLDER: what is uploaded is the kept merge")
    if os.environ.get("SEME_ONLINE") != "1":
        raise ValueError("push needs the Hub, and runs are offline: set SEME_ONLINE=1")


def push(folder: Path, repository: str, *, api: HfApi | None = None) -> str:
    """Upload a kept merge in one commit, to a repository that is made private if it is new.

    Args:
        folder: The kept merge; checked against its manifest first.
        repository: ``ORG/NAME``.
        api: The client; None for one with the user's token and endpoint.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the folder is not as its manifest says, or the Hub refuses it; says how to
            repeat the upload alone.
    """
    if problems := verify_folder(folder).problems:
        raise ValueError(
            f"{folder} is not uploaded: it is not as in {MANIFEST_NAME}: {problems[0]}"
        )
    client = api or HfApi()
    try:
        client.create_repo(repository, private=True, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Merge by SeMe bench",
            ignore_patterns=[".git/*", ".cache/*", "record.json"],
        )
    except Exception as error:  # lost connections raise errors of the HTTP library
        cause = " ".join(str(error).split())[:300]
        again = shlex.join(["hf", "upload", repository, str(folder)])
        raise ValueError(
            f"{repository}: the Hub did not take the merge ({type(error).__name__}: "
            f"{cause}); it is kept in {folder}; `hf auth login`, then `{again}` uploads it"
        ) from error
    return str(commit.commit_url)
