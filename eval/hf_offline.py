"""Keep Hugging Face's libraries off the network."""

import os
import sys

_SWITCHES = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_EVALUATE_OFFLINE",
)


def go_offline() -> None:
    """Switch model hub, data sets and metrics to local files, unless ``SEME_ONLINE=1``.

    The libraries read their switches once, when they are imported: those that are imported
    already are switched too.
    """
    if os.environ.get("SEME_ONLINE") == "1":
        return
    os.environ.update(dict.fromkeys(_SWITCHES, "1"))
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:
            vars(module)["HF_HUB_OFFLINE"] = True
