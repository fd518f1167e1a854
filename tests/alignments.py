"""Alignment of two model folders, step by step."""

from dataclasses import replace
from pathlib import Path

import torch

from seme.alignment.activations import PivotTexts
from seme.alignment.frames import Frame, find_frame
from seme.alignment.head_comparison import HeadComparison, PivotHead, compare_heads
from seme.alignment.options import AlignmentOptions
from seme.checkpoint.reader import open_checkpoint
from tests.disguise import folded

OPTIONS = AlignmentOptions(
    projection="orthogonal",
    anchors="both",
    match_units="auto",
    refine=0,
    identity_tolerance=0.1,
)


def comparison_of(pivot: Path, source: Path, **options: object) -> HeadComparison:
    models = [open_checkpoint(folder, root=folder) for folder in (pivot, source)]
    pivot_head = PivotHead(models[0], torch.device("cpu"))
    return compare_heads(pivot_head, models[1], "source 0", replace(OPTIONS, **options))


def frame_of(pivot: Path, source: Path, **options: object) -> Frame:
    comparison = comparison_of(pivot, source, **options)
    chosen = replace(OPTIONS, **options)
    model = folded(pivot).model
    texts = PivotTexts(model.canonical, chosen.sampling)
    return find_frame(model, folded(source).model, comparison, chosen, texts)
