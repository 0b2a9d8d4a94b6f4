"""The maps and scales of :class:`roialign_ext.MultiScaleRoIAlign`: selected by name, inferred from sizes.

TorchScript compiles these functions too.
"""

import warnings

import torch
from torch import Tensor

from ._checks import check_image_shapes, check_named_maps


def maps_named(x: dict[str, Tensor], featmap_names: list[str]) -> list[Tensor]:
    """The maps with these names, in the order of the dictionary."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_named_maps("x", x, featmap_names)
    features: list[Tensor] = []
    for name, level in x.items():
        if name in featmap_names:
            features.append(level)
    if len(features) == 0:
        raise ValueError(f"x: expected feature maps named {featmap_names}, got {list(x.keys())}")
    return features


def _exponent(pixels: int, of: int) -> int:
    """Exponent of the power of two nearest to ``pixels / of``.

    It is found by comparisons of integers, which a compiled graph keeps as guards.
    """
    exponent = 0
    while 2 * pixels * pixels < of * of:
        pixels, exponent = 2 * pixels, exponent - 1
    while pixels * pixels > 2 * of * of:
        of, exponent = 2 * of, exponent + 1
    return exponent


def _poor_guess(finest: Tensor, scale: float, height: int, width: int) -> str:
    """The reason why the inferred scale of the finest level may be wrong; empty if it looks right.

    Only the finest level is examined. Padding enlarges all levels by the same factor, and the finest is rounded least.
    A ratio of up to a tenth above a power of two is accepted: padding to a multiple of 32 adds at most a tenth, for
    images of 310 pixels or more.
    """
    by_height, by_width = finest.size(2) / height / scale, finest.size(3) / width / scale
    why = ""
    if _exponent(finest.size(2), height) != _exponent(finest.size(3), width):
        why = "the two axes suggest different powers of two"
    elif min(by_height, by_width) > 1.1 or max(by_height, by_width) < 1 / 1.1:
        why = "the ratio is far from a power of two"
    if why == "":
        return why
    return (
        f"MultiScaleRoIAlign: the scale of level 0 is inferred as {scale}, from a map of {finest.size(2)} x "
        f"{finest.size(3)} pixels and images of up to {height} x {width}, but {why}. Pass scales=, "
        "1 / stride of each level, to set it"
    )


def infer_scales(features: list[Tensor], image_shapes: list[tuple[int, int]], warned: list[bool]) -> list[float]:
    """Map pixels per image pixel of each level: the power of two nearest to map size / size of the largest image.

    The axis with the smaller ratio counts, because ``image_shapes`` exclude the padding, which makes ratios larger.
    A doubtful scale gives a warning if ``warned`` is empty, and adds an element to ``warned``.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_image_shapes("image_shapes", image_shapes)
    if len(image_shapes) == 0:
        raise ValueError("image_shapes: expected one (height, width) per image, got an empty list")
    height, width = 0, 0
    for shape in image_shapes:
        height, width = max(height, shape[0]), max(width, shape[1])
    if height < 1 or width < 1:
        raise ValueError(f"image_shapes: expected heights and widths above 0 to infer scales from, got {image_shapes}")
    for i, level in enumerate(features):
        if level.size(2) < 1 or level.size(3) < 1:
            raise ValueError(
                f"x: expected maps of a height and width above 0 to infer scales from, got shape {list(level.shape)} "
                f"at level {i}"
            )
    scales = [2.0 ** min(_exponent(level.size(2), height), _exponent(level.size(3), width)) for level in features]
    quiet = len(warned) > 0
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        # The comparisons of _poor_guess would become guards of a compiled graph.
        quiet = quiet or torch.compiler.is_compiling()
    if not quiet:
        doubt = _poor_guess(features[0], scales[0], height, width)
        if doubt != "":
            warned.append(True)
            warnings.warn(doubt, stacklevel=2)
    return scales
