"""Seconds and memory of the leaderboard of a results folder, by its number of merges.

``python -m scripts.benchmark.leaderboard [N ...]`` makes up folders of 50, 100, 200 and 500
merges, each with the samples of 12 tasks x 200 documents, ranks each in a process of its own and
prints seconds and peak resident memory; then what one more run adds to a folder of 100.
"""

SIZES = (50, 100, 200, 500)
_N_DOCUMENTS = 200
_N_TASKS, _N_BITS_TASKS = 12, 7
_SOURCES = ("code", "french", "german")
