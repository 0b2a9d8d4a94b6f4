"""Do tensors, boxes and detectors of torchvision take this package's functions and layers?"""

from __future__ import annotations

import copy
import io
import pickle
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import roialign_ext
from roialign_ext import MultiScaleRoIAlign, RoIAlign, RoIPool, RoIWarp, roi_align, roi_align_rotated
from support.children import Program, run_all
from support.detectors import detector
from support.inputs import random_tensor
from support.operators import FIRST
from support.small_cases import SmallCase, each_function

# --- tensor subclasses


class Image(Tensor):
    """Declines to answer beside a type that it does not know, as torchvision's tensors do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not all(issubclass(cls, kind) for kind in types):
            return NotImplemented
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs or {})


class Corners(Image):
    """Another one; neither is a subclass of the other's siblings."""


class Picture(Image):
    """The sibling."""


@each_function
def test_where_every_override_declines_tensors_are_plain(case: SmallCase) -> None:
    *maps, boxes = case.point()
    features = case.features(*(feature_map.as_subclass(Picture) for feature_map in maps))
    rows = case.box_arguments(boxes)
    arguments = (rows[0].as_subclass(Corners), *rows[1:])
    out = case.function(features, *arguments, (2, 3), **case.options)
    assert type(out) is Tensor
    assert torch.equal(out, case(*case.point()))


def test_gradients_beside_declining_subclasses() -> None:
    features, boxes = random_tensor(1, 2, 6, 6).requires_grad_(), torch.tensor([[1.0, 1, 4, 5]]).double()
    expected = torch.autograd.grad(roi_align(features, [boxes], 2).sum(), features)
    out = roi_align(features.as_subclass(Picture), [boxes.as_subclass(Corners)], 2)
    assert torch.equal(*torch.autograd.grad(out.sum(), features), *expected)


def test_compiled_beside_declining_subclasses() -> None:
    features, boxes = random_tensor(1, 2, 6, 6), torch.tensor([[1.0, 1, 4, 5]]).double()
    compiled = torch.compile(roi_align, backend="eager")
    out = compiled(features.as_subclass(Picture), [boxes.as_subclass(Corners)], 2)
    assert torch.equal(out, roi_align(features, [boxes], 2))


def test_an_error_of_an_override_is_not_taken_for_declining() -> None:
    class Broken(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise TypeError("no implementation found for 'another function'")

    with pytest.raises(TypeError, match="another function"):
        roi_align(random_tensor(1, 2, 6, 6).as_subclass(Broken), torch.zeros(1, 5), 2)


def test_a_mode_that_declines_has_the_last_word() -> None:
    class Declines(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return NotImplemented if func is roi_align else func(*args, **kwargs or {})

    with Declines(), pytest.raises(TypeError, match="no implementation found for"):
        roi_align(random_tensor(1, 2, 6, 6), torch.zeros(1, 5), 2)


def test_under_a_default_device() -> None:
    """A default device is a mode, which passes the call on."""
    features, boxes = random_tensor(1, 2, 6, 6), torch.tensor([[1.0, 1, 4, 5]]).double()
    with torch.device("cpu"):
        out = roi_align(features.as_subclass(Picture), [boxes.as_subclass(Corners)], 2)
    assert torch.equal(out, roi_align(features, [boxes], 2))


@pytest.fixture(scope="module")
def tv_tensors() -> ModuleType:
    found: ModuleType = pytest.importorskip("torchvision.tv_tensors", reason="torchvision is not installed")
    return found


def test_tensors_of_torchvision(tv_tensors: ModuleType) -> None:
    features, boxes = random_tensor(1, 3, 8, 8, dtype=torch.float32), torch.tensor([[1.0, 1, 5, 6]])
    image, corners = tv_tensors.Image(features), tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(8, 8))
    assert torch.equal(roi_align(image, [corners], 4), roi_align(features, [boxes], 4))
    assert torch.equal(RoIPool(4, 1.0)(image, [corners]), RoIPool(4, 1.0)(features, [boxes]))
    layer = MultiScaleRoIAlign(["0"], 4, 2)
    expected = layer({"0": features}, [boxes], [(8, 8)])
    assert torch.equal(layer({"0": image}, [corners], [(8, 8)]), expected)


FORMATS = ("XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR", "XYXYXYXY")
OTHER_FORMATS = [(name, format) for name, call in FIRST.items() for format in FORMATS if format != call.box_format]


@pytest.mark.parametrize(("name", "format"), OTHER_FORMATS)
def test_formats_of_other_operators(tv_tensors: ModuleType, name: str, format: str) -> None:
    """The function and the layer refuse boxes of another format than theirs."""
    call = FIRST[name]
    columns = {"XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}.get(format, 4)
    features, rows = call.input_of(random_tensor(1, 3, 8, 8, dtype=torch.float32)), call.boxes("inside", images=1)[:2]
    boxes = tv_tensors.BoundingBoxes(torch.ones(2, columns), format=format, canvas_size=(8, 8))
    expected = rf".* {call.box_format}, got BoundingBoxes of the" if call.takes_lists else "a plain tensor .*"
    for given in ([boxes], boxes) if call.takes_lists else (boxes,):
        with pytest.raises(ValueError, match=rf"^boxes: expected {expected} format {format}\b"):
            call.function(**{**call.arguments(features, rows), "boxes": given})
        inputs = call.layer_inputs(features, rows)
        with pytest.raises(ValueError, match=rf"^boxes: expected {expected} format {format}\b"):
            call.layer()(**{**inputs, "rois" if "rois" in inputs else "boxes": given})


def test_rotated_boxes_of_torchvision(tv_tensors: ModuleType) -> None:
    """torchvision turns counter-clockwise too: the box is the one that its own corners show."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional", reason="torchvision is not installed")
    rows = torch.tensor([[4.0, 5.0, 4.0, 2.0, 30.0]], dtype=torch.float64)
    boxes = tv_tensors.BoundingBoxes(rows, format="CXCYWHR", canvas_size=(12, 12))
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    positions = torch.stack([x, y])[None].double()
    centres = roi_align_rotated(positions, [boxes], (1, 2), aligned=False)[0, :, 0]  # of the left and the right half
    corners = functional.convert_bounding_box_format(boxes, new_format="XYXYXYXY").as_subclass(Tensor).reshape(4, 2)
    left, right = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
    expected = torch.stack([0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right], dim=1)
    torch.testing.assert_close(centres, expected)
    for wrong in ({"clockwise": True}, {"angle_unit": "radian"}):
        with pytest.raises(ValueError, match=r"^boxes: .*counter-clockwise.*degree"):
            roi_align_rotated(positions, [boxes], 2, **wrong)  # type: ignore[arg-type]


# --- the layer that torchvision's detectors ask for

STAND_IN = """
import sys, types
import torch
{first}
module = types.ModuleType("torchvision.ops.poolers")
class MultiScaleRoIAlign(torch.nn.Module):
    def __init__(self, featmap_names):
        super().__init__()
    def __repr__(self):
        return "theirs"
module.MultiScaleRoIAlign = MultiScaleRoIAlign
sys.modules[module.__name__] = module
import copy, pickle, roialign_ext
layer = roialign_ext.MultiScaleRoIAlign(["0"], 2, 2) if layer is None else layer
assert isinstance(layer, (MultiScaleRoIAlign, type(None)))
assert isinstance(layer, MultiScaleRoIAlign)
assert issubclass(roialign_ext.MultiScaleRoIAlign, MultiScaleRoIAlign)
assert type(layer) is layer.__class__ is roialign_ext.MultiScaleRoIAlign
assert not isinstance(roialign_ext.RoIAlign(2, 1.0, 2), MultiScaleRoIAlign)
assert "featmap_names=['0']" in repr(layer)
features, boxes, shapes = {{"0": torch.rand(1, 2, 8, 8)}}, [torch.tensor([[1.0, 1, 5, 6]])], [(8, 8)]
expected = layer(features, boxes, shapes)
for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.jit.script(layer)):
    assert torch.equal(other(features, boxes, shapes), expected)
assert roialign_ext.replace_roi_layers(torch.nn.Sequential(layer)) == []
"""
IMPORTS = {
    "torchvision first": "layer = None",
    "roialign_ext first": "import roialign_ext; layer = None",
    "a layer first": "import roialign_ext; layer = roialign_ext.MultiScaleRoIAlign(['0'], 2, 2)",
    "a pickled layer first": (
        "import roialign_ext, pickle; layer = pickle.loads(pickle.dumps(roialign_ext.MultiScaleRoIAlign(['0'], 2, 2)))"
    ),
    "a subclass": (
        "import roialign_ext\nclass Mine(roialign_ext.MultiScaleRoIAlign): pass\n"
        "assert type(Mine(['0'], 2, 2)) is Mine(['0'], 2, 2).__class__ is Mine\nlayer = None"
    ),
}


def test_order_of_imports() -> None:
    """Imports run in processes of their own, with a class of torchvision's name and place."""
    silent = "import warnings; warnings.simplefilter('ignore')"
    programs = [Program(silent + STAND_IN.format(first=first)) for first in IMPORTS.values()]
    for name, result in zip(IMPORTS, run_all(programs), strict=True):
        assert result.returncode == 0, f"{name}: {result.stderr}"


def test_detectors_take_the_layer() -> None:
    """The detectors of boxes, masks and keypoints."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    for name, pool in (("FasterRCNN", "box"), ("MaskRCNN", "mask"), ("KeypointRCNN", "keypoint")):
        sizes = {"box": 7, "mask": 14, "keypoint": 14}
        poolers = {f"{kind}_roi_pool": MultiScaleRoIAlign(["0"], sizes[kind], 2) for kind in {"box", pool}}
        model = detector(torchvision, name, **poolers).eval()
        assert model.roi_heads.box_roi_pool is poolers["box_roi_pool"]
        with torch.no_grad():
            assert len(model([torch.rand(3, 64, 64).double()])) == 1
        buffer = io.BytesIO()
        torch.save(poolers["box_roi_pool"], buffer)
        buffer.seek(0)
        assert repr(torch.load(buffer, weights_only=False)) == repr(poolers["box_roi_pool"])
        assert repr(copy.deepcopy(model)) == repr(model)
        assert pickle.dumps(poolers["box_roi_pool"])
    with pytest.raises(TypeError, match="MultiScaleRoIAlign"):
        detector(torchvision, "FasterRCNN", box_roi_pool=RoIAlign(7, 1.0, 2))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("RoIAlign", (7, 0.5, 2)), ("RoIAlign", ((7, 6), 0.5, -1, True)), ("RoIPool", (7, 0.5)),
     ("RoIPool", ((7, 6), 0.5)), ("MultiScaleRoIAlign", (["0", "p3"], 7, 2)),
     ("MultiScaleRoIAlign", (["0"], (7, 6), 0))],
)  # fmt: skip
def test_repr_is_that_of_torchvision(name: str, arguments: tuple[Any, ...]) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    assert repr(getattr(roialign_ext, name)(*arguments)) == repr(getattr(ops, name)(*arguments))


def test_repr_shows_what_torchvision_has_not() -> None:
    assert repr(RoIAlign(7, 0.5, 2, mode="max")).endswith("sampling_ratio=2, aligned=False, mode='max')")
    assert repr(RoIWarp(7, 0.5, 2)) == "RoIWarp(output_size=7, spatial_scale=0.5, sampling_ratio=2)"
    start = "MultiScaleRoIAlign(featmap_names=['0'], output_size=(7, 7), sampling_ratio=2"
    assert repr(MultiScaleRoIAlign(["0"], 7, 2)) == start + ")"
    assert repr(MultiScaleRoIAlign(["0"], 7, 2, canonical_scale=224.0, canonical_level=4.0)) == start + ")"
    layer = MultiScaleRoIAlign(["0"], 7, 2, canonical_scale=56, scales=[0.25], aligned=True, mode="max")
    assert repr(layer) == start + ", canonical_scale=56.0, scales=[0.25], aligned=True, mode='max')"
