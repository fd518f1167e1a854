"""Compiled loops over the elements of blocks on the CPU; a GPU runs the same steps in torch."""
