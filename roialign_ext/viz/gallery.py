"""The pictures of docs/gallery.md."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .boxes import draw_box
from .localisation import plot_localisation_error

FORMATS = ("png", "svg")


def example_map(height: int = 9, width: int = 10) -> Tensor:
    """Two blobs of different size: a float64 map ``[height, width]`` with values from 0 to 1."""
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)[None, :]
    large = torch.exp(-((y - 3.0) ** 2 + (x - 3.6) ** 2) / 4.0)
    small = 0.8 * torch.exp(-((y - 5.6) ** 2 + (x - 6.8) ** 2) / 2.5)
    return large + small


def write_gallery(folder: Path | str, format: str = "png") -> list[Path]:
    """Writes the pictures of docs/gallery.md into ``folder``, and creates it if necessary.

    Args:
        folder: destination; files of the same names are replaced.
        format: ``"png"`` or ``"svg"``.

    Returns:
        The paths of the files.

    Raises:
        TypeError: ``folder`` is not a path.
        ValueError: ``format`` is unknown.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if not isinstance(folder, (str, Path)):
        raise TypeError(f"folder: expected a path, got {folder!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ramp = torch.arange(36.0).reshape(6, 6)
    figures = {
        "operators": draw_box(example_map(), (22.0, 23.0, 117.0, 102.0), 3, spatial_scale=1 / 16),
        "half_pixel": draw_box(ramp, (0.0, 2.0, 2.0, 4.0), 2, 1.0, 1, ("roi_align", "roi_align_half_pixel")),
        "localisation": plot_localisation_error(),
    }
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.{format}"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths
