"""Configurations in mergekit's format whose numbers are mergekit's."""

from tests.mergekit_task_vectors import TASK_VECTORS
from tests.mergekit_weighted import WEIGHTED

EQUAL = WEIGHTED | TASK_VECTORS
