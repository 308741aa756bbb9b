"""A model as an exported program, which torch runs without our code."""

from pathlib import Path

import torch
from torch.export import Dim

from fvit.models.export.subject import Subject


def write_program(subject: Subject, folder: Path) -> float:
    """Write model.pt2, for any number of images at once, and run it.

    Returns:
        the largest difference of its logits.

    Raises:
        ValueError: the model cannot be exported, or the file gives other logits.
    """
    path = folder / "model.pt2"
    with torch.no_grad():
        try:
            program = torch.export.export(
                subject.model, (subject.images(2),), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
        except Exception as error:  # the exporter's own kinds are many, and private
            raise subject.refuse("a program", error) from error
    torch.export.save(program, path)
    return subject.check(torch.export.load(path).module())
