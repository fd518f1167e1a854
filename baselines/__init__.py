"""The merge methods SeMe is compared with, one module per method."""
