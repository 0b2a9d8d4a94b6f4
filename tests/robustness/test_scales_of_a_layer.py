"""Does ``MultiScaleRoIAlign`` infer the right scales from sizes, also of padded images, and warn where it cannot?"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roialign_ext import MultiScaleRoIAlign, multiscale_roi_align
from support.inputs import random_tensor

BOXES = [torch.tensor([[3.0, 4.0, 60.0, 61.0], [0.0, 0.0, 41.0, 30.0]])]


def maps(image: tuple[int, int], strides: list[int], multiple: int = 32) -> dict[str, Tensor]:
    """The maps of a network of these strides, which rounds up, for an image that is padded to a multiple."""
    padded = [math.ceil(size / multiple) * multiple for size in image]
    return {
        str(stride): random_tensor(1, 2, *(math.ceil(size / stride) for size in padded), dtype=torch.float32)
        for stride in strides
    }


def make(strides: list[int], **arguments: Any) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign([str(stride) for stride in strides], 2, 2, **arguments)


def scripted(layer: nn.Module) -> nn.Module:
    return torch.jit.script(layer)  # type: ignore[no-any-return]


@pytest.fixture(params=[lambda layer: layer, scripted], ids=["eager", "scripted"])
def wrap(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    return request.param  # type: ignore[no-any-return]


FPN = [4, 8, 16, 32]


@pytest.mark.filterwarnings("ignore:MultiScaleRoIAlign. the scale of level 0:UserWarning")
@pytest.mark.parametrize(
    ("image", "strides"),
    [
        *((image, FPN) for image in ((67, 1333), (1333, 67), (40, 640), (800, 33), (800, 1333), (97, 97))),
        ((67, 1333), [32]),
        ((67, 1333), [2, 4, 8, 16, 32, 64]),
        ((1200, 90), [8, 16]),
    ],
)
def test_padding_does_not_change_the_scale(
    wrap: Callable[[nn.Module], nn.Module], image: tuple[int, int], strides: list[int]
) -> None:
    """67 x 1333 is padded to 96 x 1344: the map of stride 4 has 24 rows, 1 / 2.8 of 67."""
    features = maps(image, strides)
    expected = multiscale_roi_align(list(features.values()), BOXES, 2, [1 / stride for stride in strides], 2)
    assert torch.equal(wrap(make(strides))(features, BOXES, [image]), expected)


def pyramid_of(*heights: int) -> dict[str, Tensor]:
    return {
        str(level): random_tensor(2, 3, height, height + 2, seed=level, dtype=torch.float32)
        for level, height in enumerate(heights)
    }


LISTED = [torch.tensor([[3.0, 4.0, 40.0, 61.0], [0.0, 0.0, 250.0, 200.0]]),
          torch.tensor([[10.0, 20.0, 130.0, 90.0]])]  # fmt: skip


@pytest.mark.filterwarnings("ignore:MultiScaleRoIAlign. the scale of level 0:UserWarning")  # of 300, and of 9 columns
@pytest.mark.parametrize(("heights", "scales"), [((64, 32, 16), [0.25, 0.125, 0.0625]), ((63, 24), [0.25, 0.125]),
                                                 ((300,), [1.0]), ((8,), [2.0**-5])])  # fmt: skip
def test_scales_follow_from_sizes(heights: tuple[int, ...], scales: list[float]) -> None:
    """The nearest power of two to the ratio of map and largest image, in every call anew."""
    layer = MultiScaleRoIAlign([str(level) for level in range(4)], 3, 2)
    maps = pyramid_of(*heights)
    given = MultiScaleRoIAlign(layer.featmap_names, 3, 2, scales=scales)
    shapes = [(250, 256), (252, 240)]
    torch.testing.assert_close(layer(maps, LISTED, shapes), given(maps, LISTED, shapes))
    torch.testing.assert_close(
        layer(maps, LISTED, shapes), multiscale_roi_align(list(maps.values()), LISTED, 3, scales, 2)
    )
    halved = [2.0 * scale for scale in scales]
    torch.testing.assert_close(
        layer(maps, LISTED, [(125, 9)]), MultiScaleRoIAlign(layer.featmap_names, 3, 2, scales=halved)(maps, LISTED, [])
    )


def test_maps_are_taken_in_the_order_of_the_dictionary() -> None:
    maps = pyramid_of(64, 32, 16)
    named = {"p2": maps["0"], "unused": maps["2"], "p3": maps["1"]}
    expected = MultiScaleRoIAlign(["0", "1"], 3, 2)({"0": maps["0"], "1": maps["1"]}, LISTED, [(256, 256)])
    torch.testing.assert_close(MultiScaleRoIAlign(["p3", "p2"], 3, 2)(named, LISTED, [(256, 256)]), expected)
    with pytest.raises(ValueError, match=r"x: .*\['p9'\].*'p2'"):
        MultiScaleRoIAlign(["p9"], 3, 2)(named, LISTED, [(256, 256)])
    with pytest.raises(ValueError, match="image_shapes: "):
        MultiScaleRoIAlign(["p2"], 3, 2)(named, LISTED, [])


def test_largest_image_of_a_batch() -> None:
    """Height and width of the batch may come from two images."""
    features = maps((640, 800), FPN)
    features = {name: torch.cat([level] * 2) for name, level in features.items()}
    boxes = BOXES * 2
    expected = multiscale_roi_align(list(features.values()), boxes, 2, [1 / stride for stride in FPN], 2)
    assert torch.equal(make(FPN)(features, boxes, [(300, 800), (640, 200)]), expected)


@pytest.mark.parametrize(
    ("image", "strides", "multiple"),
    [((67, 1333), FPN, 32), ((224, 224), [14], 14), ((518, 518), [14], 14), ((280, 336), [14, 28], 14),
     ((480, 640), [12], 12), ((480, 640), [20], 20)],
)  # fmt: skip
def test_a_poor_guess_warns_once(
    wrap: Callable[[nn.Module], nn.Module], image: tuple[int, int], strides: list[int], multiple: int
) -> None:
    features, layer = maps(image, strides, multiple), wrap(make(strides))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            layer(features, BOXES, [image])
    ours = [str(warning.message) for warning in caught if "MultiScaleRoIAlign" in str(warning.message)]
    assert len(ours) == 1
    assert "scales=" in ours[0]
    assert f"{image[0]} x {image[1]}" in ours[0]
    given = wrap(make(strides, scales=[1 / stride for stride in strides]))
    given(features, BOXES, [image])  # warnings are errors


@pytest.mark.parametrize(
    "image",
    [(800, 1333), (1333, 800), (800, 1066), (480, 640), (375, 500), (600, 801), (320, 320), (128, 160), (333, 321)],
)
def test_usual_images_do_not_warn(wrap: Callable[[nn.Module], nn.Module], image: tuple[int, int]) -> None:
    """Padded to multiples of 32 or of nothing, with the coarse levels that some detectors have."""
    for multiple in (1, 32):
        for strides in (FPN, [16], [32], [8, 16, 32, 64, 128]):
            wrap(make(strides))(maps(image, strides, multiple), BOXES, [image])


@pytest.mark.parametrize("shapes", [[(0, 16)], [(16, 0)], [(0, 0)]])
def test_sizes_of_zero(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"^image_shapes: expected heights and widths above 0"):
        make([4])(maps((16, 16), [4]), BOXES, shapes)


@pytest.mark.parametrize("cut", [(slice(0), slice(None)), (slice(None), slice(0))])
def test_maps_without_pixels(cut: tuple[slice, slice]) -> None:
    with pytest.raises(ValueError, match=r"^x: expected maps of a height and width above 0 .* at level 0"):
        make([4])({"4": maps((16, 16), [4])["4"][(..., *cut)]}, BOXES, [(16, 16)])
    with_scales = make([4], scales=[0.25])
    assert not bool(with_scales({"4": maps((16, 16), [4])["4"][(..., *cut)]}, BOXES, [(0, 16)]).any())


def test_a_compiled_layer_takes_the_same_scale() -> None:
    """Without a warning, whose condition would be one of the graph."""
    features = maps((67, 1333), FPN)
    layer = make(FPN, scales=[1 / stride for stride in FPN])
    compiled = torch.compile(make(FPN), fullgraph=True, backend="eager")
    assert torch.equal(compiled(features, BOXES, [(67, 1333)]), layer(features, BOXES, [(67, 1333)]))


def test_a_layer_that_has_warned_can_be_copied_and_scripted() -> None:
    layer, features = make([14]), maps((224, 224), [14], 14)
    with pytest.warns(UserWarning, match="far from a power of two"):
        expected = layer(features, BOXES, [(224, 224)])
    for other in (copy.deepcopy(layer), scripted(layer), torch.jit.freeze(scripted(layer.eval()))):
        assert torch.equal(other(features, BOXES, [(224, 224)]), expected)
