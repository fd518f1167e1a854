"""One-to-one assignment of units by similarity; the only user of scipy's solver."""

import torch
from torch import Tensor


def assign(similarity: Tensor) -> Tensor:
    """Give every row a column of its own so that the summed similarity is greatest.

    Exact and deterministic. Two cores, 4864 x 4864: about a second.

    Args:
        similarity: (rows, columns), finite, any real dtype and device.

    Returns:
        (rows,) int64 on the device of ``similarity``: the column of each row, -1 for the rows
        left over where there are fewer columns.
    """
    from scipy.optimize import (  # type: ignore[import-untyped]  # noqa: PLC0415
        linear_sum_assignment,  # slow to load, and fine-tunes of one base need none
    )

    n_rows, n_columns = similarity.shape
    index = torch.full((n_rows,), -1)
    if n_columns > 0:
        rows, columns = linear_sum_assignment(_reduced_cost(similarity).cpu().numpy())
        index[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return index.to(similarity.device)


def assign_groups(
    similarity: Tensor, *, n_groups: int, n_groups_source: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign units inside every pair of groups, then groups by the mean of their matched units.

    Args:
        similarity: (rows, columns); rows and columns are cut into groups of equal size.
        n_groups: Groups of the rows.
        n_groups_source: Groups of the columns.

    Returns:
        For each group of rows its group of columns, for each row its column, both int64 and -1
        without a counterpart, and for each group of rows the mean similarity of its matched
        units, 0 without one.
    """
    n_rows = similarity.shape[0] // n_groups
    n_columns = similarity.shape[1] // n_groups_source
    blocks = similarity.cpu().reshape(n_groups, n_rows, n_groups_source, n_columns)
    blocks = blocks.transpose(1, 2)
    inside = torch.stack([assign(block) for block in blocks.flatten(0, 1)])
    inside = inside.view(n_groups, n_groups_source, n_rows)
    chosen = blocks.gather(3, inside.clamp(min=0)[..., None])[..., 0]
    scores = (chosen * (inside >= 0)).sum(dim=2) / min(n_rows, n_columns)
    groups = assign(scores)
    taken = groups.clamp(min=0)[:, None]
    local = inside.take_along_dim(taken[..., None], dim=1)[:, 0]
    placed = (local >= 0) & (groups >= 0)[:, None]
    units = torch.where(placed, taken * n_columns + local, -1).flatten()
    means = torch.where(groups >= 0, scores.take_along_dim(taken, dim=1)[:, 0], 0.0)
    device = similarity.device
    return groups.to(device), units.to(device), means.to(device)


def _reduced_cost(similarity: Tensor) -> Tensor:
    """Turn similarity into a cost with a zero in each row and column that must be assigned.

    A constant taken off a row that is assigned in any case changes no choice, and saves the
    solver most of its search.
    """
    cost = similarity.double().neg()
    n_rows, n_columns = cost.shape
    if n_rows <= n_columns:
        cost -= cost.amin(dim=1, keepdim=True)
    if n_columns <= n_rows:
        cost -= cost.amin(dim=0, keepdim=True)
    return cost
