"""Findings of others on moving task vectors between models, beside our own claim of it."""

from eval.report.render import Table

_FOUND = (
    (
        "Gu et al., the authors of SeMe (arXiv 2510.24208)",
        "Direct reuse of parameters between models of different size is strongly limited; they "
        "match activations of paired layers instead.",
        "texts of the task, and training of the target",
        "not built: it trains. Ours moves parameters, by the map of their earlier paper.",
    ),
    (
        "Xia et al., Cross-LoRA (arXiv 2508.05232)",
        "An adapter projected between the leading singular directions of both bases gains up to "
        "5.26 % (relative) over the base.",
        "nothing",
        "not built. Ours pairs directions by the tokens they stand for, not by the rank of their "
        "singular values.",
    ),
    (
        "Rinaldi et al., Theseus (arXiv 2602.12952)",
        "Orthogonal Procrustes maps of activations move a task vector to another width in closed "
        "form, with consistent improvements over baselines.",
        "texts of the task",
        "nearest to ours with activations as anchors, whose texts the pivot itself samples.",
    ),
    (
        "Son et al., BiCo (arXiv 2605.28444)",
        "Matched activations alone leave a large gap to fine-tuning; aligning the gradients of "
        "outputs too does better.",
        "labelled texts of the task, one backward pass",
        "not built: it needs labels.",
    ),
)


def found_by_others() -> Table:
    """Tabulate what others claim, as their abstracts put it, what it needs, and what is here."""
    return Table(("claim of others", "finding", "needs besides weights", "here"), _FOUND)
