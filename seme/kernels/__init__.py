"""Loops over the elements of blocks on a processor, compiled; a GPU runs the same in torch."""
