"""Does an exported model give the oracles' numbers in onnxruntime, and does a refused export say why?"""

from __future__ import annotations

import copy
import importlib
import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import roialign_ext
from roialign_ext import (
    MultiScaleRoIAlign,
    RoIAlign,
    _onnx_registration,
    multiscale_roi_align,
    replace_roi_layers,
    roi_align,
)
from support.detectors import detector
from support.inputs import BOX_SETS, random_tensor, spread, xyxy
from support.operator_calls import (
    CropCall,
    OperatorCall,
    PSRoIAlignCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)
from support.operators import FIRST, OPERATORS
from support.tolerance import assert_within_rounding

onnx = pytest.importorskip("onnx", reason="onnx belongs to the optional extra onnx")
pytest.importorskip("onnxscript", reason="onnxscript belongs to the optional extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from roialign_ext.onnx import translation_table  # noqa: E402

# The exporters' own use of what torch deprecates, and that one of them is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

K, N, H, W = (Dim(name) for name in ("K", "N", "H", "W"))
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


class Lambda(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def exported(model: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any, **options: Any) -> Any:
    """The program that ``torch.onnx.export`` returns."""
    return torch.onnx.export(
        model.eval(), arguments, dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False, **options
    )


def traced(model: nn.Module, arguments: tuple[Any, ...], opset_version: int = 16) -> bytes:
    """The model that the exporter of ``dynamo=False`` writes, with any sizes but for channels."""
    names = [f"argument{number}" for number in range(len(arguments))]
    sizes = {
        name: {axis: f"{name}_{axis}" for axis in range(argument.dim()) if axis != 1}
        for name, argument in zip(names, arguments, strict=True)
    }
    with io.BytesIO() as file:
        torch.onnx.export(
            model.eval(), arguments, file, dynamo=False, input_names=names, dynamic_axes=sizes,
            opset_version=opset_version,
        )  # fmt: skip
        return file.getvalue()


def runtime(model: Any) -> Callable[..., Tensor]:
    """A program or its bytes in onnxruntime as a function of tensors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else model.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*tensors: Tensor) -> Any:
        results = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
        found = [torch.from_numpy(result) for result in results]
        return found[0] if len(found) == 1 else found

    return run


def function(
    call: Callable[..., Tensor], arguments: tuple[Tensor, ...], dynamic_shapes: tuple[Any, ...], **options: Any
) -> Callable[..., Tensor]:
    """``call`` exported with ``dynamo=True`` and in onnxruntime."""
    return runtime(exported(Lambda(call), arguments, (dynamic_shapes,), **options))


def traced_function(
    call: Callable[..., Tensor], arguments: tuple[Tensor, ...], opset_version: int = 16
) -> Callable[..., Tensor]:
    """``call`` exported with ``dynamo=False`` and in onnxruntime."""
    return runtime(traced(Lambda(call), arguments, opset_version))


def operators(program: Any) -> list[str]:
    """The operators of the graph, without constants."""
    return [node.op_type for node in program.model_proto.graph.node if node.op_type != "Constant"]


# --- numbers

AVERAGE, MAXIMUM = RoIAlignCall((2, 3), 0.7, 3, aligned=True), RoIAlignCall((3, 2), 1.0, 2, aligned=True, mode="max")
WARPED, POOLED = RoIWarpCall((3, 2), 0.7, 2), RoIPoolCall((3, 2), 0.3)
CROP = CropCall((1, 2), samples_per_bin=3, extrapolation_value=0.5)
ROTATED = RotatedCall((2, 3), 0.5, 3, aligned=False, clockwise=True, angle_unit="radian")
CALLS: tuple[tuple[OperatorCall, torch.dtype], ...] = (
    *[(call, torch.float32) for call in (AVERAGE, MAXIMUM, WARPED, POOLED, CROP, ROTATED)],
    *[(call, torch.float64) for call in (AVERAGE, WARPED, CROP, ROTATED)],
    *[(call, torch.float16) for call in (AVERAGE, MAXIMUM, CROP)],
    *[(call, torch.bfloat16) for call in (AVERAGE, POOLED)],
    (RoIAlignCall((3, 2), 0.5, 2, aligned=False), torch.float32),
    (RoIAlignCall((3, 2), 0.5, 0, aligned=True), torch.float32),
    (RoIAlignCall((3, 2), 1.0, -1, aligned=False), torch.float32),
    (RoIAlignCall((2, 2), 0.7, 3, aligned=False, mode="max"), torch.float32),
    (RoIWarpCall((3, 2), 1.0, 0), torch.float32),
    (RoIWarpCall((3, 2), 0.7, 2, "max"), torch.float32),
    (RoIPoolCall((2, 3), 1.0), torch.float32),
    (CropCall((3, 2)), torch.float32),
    (CropCall((1, 4), method="nearest", extrapolation_value=-2.0), torch.float32),
    (CropCall((3, 1), samples_per_bin=2, mode="max"), torch.float32),
    (RotatedCall((3, 2), 1.0, 1), torch.float32),
    (PSRoIAlignCall((3, 2), 0.7, 2), torch.float32),
    (PSRoIAlignCall((2, 3), 0.7), torch.bfloat16),
)


# Both exporters write the same translations: each once with dynamo=True, which takes ten times as long.
BOTH_EXPORTERS = [
    *((case, False) for case in CALLS),
    *((case, True) for case in (*CALLS[:7], CALLS[-2], (AVERAGE, torch.bfloat16))),
]


@pytest.mark.parametrize(("case", "dynamo"), BOTH_EXPORTERS, ids=str)
def test_numbers_of_every_kind_of_box(case: tuple[OperatorCall, torch.dtype], dynamo: bool) -> None:
    """Half precision stays inside the model, because NumPy has no bfloat16."""
    call, dtype = case
    features = call.input_of(random_tensor(2, 3, 7, 9, dtype=dtype))
    outside = torch.float64 if dtype == torch.float64 else torch.float32
    sets = call.box_sets
    kinds = {name: spread(boxes, 2).to(outside) for name, boxes in sets.items() if name != "not_finite"}
    arguments = features.to(outside), kinds["inside"]

    def model(x: Tensor, boxes: Tensor) -> Tensor:
        return call(x.to(dtype), boxes).to(outside)

    run = function(model, arguments, (None, {0: K})) if dynamo else traced_function(model, arguments)
    for boxes in kinds.values():
        out = run(features.to(outside), boxes)
        assert_within_rounding(out.to(dtype), call.forward(features, boxes), call.forward_terms(features, boxes))
    assert run(features.to(outside), kinds["inside"][:0]).shape == (0, 3, *call.output_size)


def test_float64_boxes_of_float32_features() -> None:
    call = RoIAlignCall((3, 2), 0.3, 2, aligned=True)
    features, boxes = random_tensor(2, 3, 7, 9, dtype=torch.float32), spread(BOX_SETS["crossing"], 2)
    out = traced_function(call, (features, boxes))(features, boxes)
    assert out.dtype == torch.float32
    assert_within_rounding(out, call.forward(features, boxes), call.forward_terms(features, boxes))


def test_crops_that_end_on_the_border() -> None:
    """As in the operator, rounded steps take no sample past the edge of a box."""
    starts = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    ends = torch.ones(50, 2)
    shares = torch.cat([torch.cat([starts, ends], 1), torch.cat([ends, starts], 1), torch.cat([starts, ends - 1], 1)])
    arguments = torch.ones(1, 1, 29, 40), shares, torch.zeros(150, dtype=torch.int64)
    run = traced_function(lambda *a: roialign_ext.crop_and_resize(*a, 14, extrapolation_value=-1.0), arguments)
    assert_close(run(*arguments), torch.ones(150, 1, 14, 14))


def pyramid(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [random_tensor(2, 3, 256 >> level, 320 >> level, seed=level, dtype=dtype) for level in range(4)]


def boxes_of_all_levels(dtype: torch.dtype = torch.float32) -> Tensor:
    """Squares near the smallest of each level, random boxes, one without size and one reversed."""
    squares = [side * (1 + away) for side in (28.0, 112.0, 224.0, 448.0, 896.0) for away in (0.0, 1e-5, -4e-7, -3e-6)]
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(60, 2, generator=generator, dtype=torch.float64) * 1100
    halves = torch.exp(torch.rand(60, 2, generator=generator, dtype=torch.float64) * 5)
    corners = torch.cat(
        [
            torch.tensor([[0.0, 0.0, side, side] for side in squares], dtype=torch.float64),
            torch.cat([centres - halves, centres + halves], 1),
            torch.tensor([[5.0, 5.0, 5.0, 5.0], [300.0, 2.0, 90.0, 250.0]], dtype=torch.float64),
        ]
    )
    return spread(torch.cat([corners[:, :1], corners], 1), 2).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ratio", "aligned", "mode"), [(2, False, "avg"), (-1, True, "avg"), (2, True, "max")])
def test_pyramid(ratio: int, aligned: bool, mode: str, dtype: torch.dtype) -> None:
    def pool(*arguments: Tensor) -> Tensor:
        return multiscale_roi_align(list(arguments[:4]), arguments[4], (3, 2), SCALES, ratio, aligned, mode)

    maps, boxes = pyramid(dtype), boxes_of_all_levels(dtype)
    run = traced_function(pool, (*maps, boxes))
    # Mode max rounds positions of up to 300 map pixels in another order.
    tolerance = {torch.float32: 2e-6 if mode == "avg" else 5e-4, torch.float64: 1e-14 if mode == "avg" else 1e-12}[
        dtype
    ]
    for some in (boxes, boxes[:1], boxes[:0]):
        assert_close(run(*maps, some), pool(*maps, some), atol=tolerance, rtol=0)


def test_maps_that_are_constants_of_the_model() -> None:
    maps, boxes = pyramid()[2:], boxes_of_all_levels()[:9]

    def pool(boxes: Tensor) -> Tensor:
        return multiscale_roi_align(maps, boxes, 2, SCALES[2:], 2) + roi_align(maps[0], boxes, 2, SCALES[2], 2)

    assert_close(traced_function(pool, (boxes,))(boxes), pool(boxes), atol=2e-6, rtol=0)


@pytest.mark.parametrize("scales", [[0.25], [0.5, 0.125], [0.25, 0.13]], ids=str)
def test_pyramid_of_one_level_and_with_levels_left_out(scales: list[float]) -> None:
    def pool(*arguments: Tensor) -> Tensor:
        *maps, boxes = arguments
        return multiscale_roi_align(maps, boxes, 2, scales, 2, canonical_scale=50.0, canonical_level=2.5)

    arguments = (*pyramid()[: len(scales)], boxes_of_all_levels())
    run = traced_function(pool, arguments)
    assert_close(run(*arguments), pool(*arguments), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_layer_of_a_detector(dynamo: bool) -> None:
    """A module, a dictionary of maps, lists of boxes."""
    layer = MultiScaleRoIAlign(["a", "b"], 3, 2, scales=[1 / 4, 1 / 8])

    def pool(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return layer({"a": a, "b": b}, [first, second], [(1024, 1280), (1000, 1100)])

    maps, corners = pyramid()[:2], boxes_of_all_levels()[:, 1:]
    arguments = *maps, corners[:40], corners[40:]
    run = function(pool, arguments, (None, None, {0: K}, {0: Dim("L")})) if dynamo else traced_function(pool, arguments)
    for boxes in ((corners[:40], corners[40:]), (corners[:0], corners[:7])):
        assert_close(run(*maps, *boxes), pool(*maps, *boxes), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dynamo", [False, True])
def test_dynamic_sizes_of_batch_and_map(dynamo: bool) -> None:
    def pool(x: Tensor, boxes: Tensor) -> Tensor:
        crops = roialign_ext.crop_and_resize(x, boxes[:, 1:] / 20, boxes[:, 0].int(), 2, samples_per_bin=2, mode="max")
        return roi_align(x, boxes, 2, 0.5, 2, True, "max") + roialign_ext.roi_warp(x, boxes, 2) + crops

    boxes = torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]).float()
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), boxes
    run = function(pool, arguments, ({0: N, 2: H, 3: W}, {0: K})) if dynamo else traced_function(pool, arguments)
    features = random_tensor(5, 3, 31, 17, dtype=torch.float32)
    boxes = spread(boxes, 5)[:6]
    assert_close(run(features, boxes), pool(features, boxes), atol=1e-5, rtol=0)


# --- the graph


def test_roi_align_is_one_operator_with_its_attributes() -> None:
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    program = exported(RoIAlign((3, 2), 0.5, 2, aligned=True), arguments, (None, {0: K}))
    (node,) = (node for node in program.model_proto.graph.node if node.op_type == "RoiAlign")
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes.items() >= {
        ("output_height", 3), ("output_width", 2), ("sampling_ratio", 2),
        ("coordinate_transformation_mode", b"half_pixel"),
    }  # fmt: skip


def test_a_pyramid_pools_every_box_once() -> None:
    maps, boxes = pyramid(), boxes_of_all_levels()
    program = exported(
        Lambda(lambda *a: multiscale_roi_align(list(a[:4]), a[4], 3, SCALES, 2)),
        (*maps, boxes),
        ((None, None, None, None, {0: K}),),
    )
    counts = Counter(operators(program))
    assert (counts["RoiAlign"], counts["NonZero"], counts["ScatterND"]) == (4, 4, 1)


# ONNX has no operator for exact integrals, for means of whole pixels, or for levels of rotated boxes.
NOT_EXPORTED = ("prroi_pool", "ps_roi_pool", "multiscale_roi_align_rotated")
EXPORTED = [
    replace(call, output_size=(2, 2))
    for call in (
        *(call for name, call in FIRST.items() if name not in NOT_EXPORTED),
        OPERATORS["roi_align-adaptive"],
        replace(FIRST["multiscale_roi_align"], mode="max"),
    )
]


def every_operator(rows: Tensor, *maps: Tensor) -> Tensor:
    """The sum of the results of ``EXPORTED``, each of its maps and its columns of ``rows``."""
    left, boxes = iter(maps), rows.split([call.columns for call in EXPORTED], 1)
    features = [[next(left) for _ in range(call.levels)] for call in EXPORTED]
    return sum(
        (
            call(some if call.levels > 1 else some[0], own)
            for call, some, own in zip(EXPORTED, features, boxes, strict=True)
        ),
        torch.zeros(()),
    )


@pytest.mark.parametrize(
    ("opset", "dynamo"), [(16, True), (17, True), (18, True), (21, True), (17, False), (20, False)]
)
def test_opsets(opset: int, dynamo: bool) -> None:
    model, features = Lambda(every_operator), random_tensor(2, 3, 8, 10, dtype=torch.float32)
    maps = [feature_map for call in EXPORTED for feature_map in tree_leaves(call.input_of(features))]
    corners = xyxy((1.0, 1.2, 7.3, 6.1), (2.0, 3.1, 4.0, 5.0), (5.0, 0.3, 9.9, 7.8))
    corners[1:, 0] = 1.0
    boxes = torch.cat([call.from_corners(corners, 8, 10) for call in EXPORTED], 1).float()
    if dynamo:
        shapes = ({0: K}, *[None] * len(maps))
        content = exported(model, (boxes, *maps), (shapes,), opset_version=opset)
        assert [imported.version for imported in content.model_proto.opset_import if imported.domain == ""] == [opset]
    else:
        content = traced(model, (boxes, *maps), opset)
        assert [imported.version for imported in onnx.load_from_string(content).opset_import] == [opset]
    run = runtime(content)
    for some in (boxes, boxes[:0]):
        assert_close(run(some, *maps), every_operator(some, *maps), atol=2e-5, rtol=0)


def test_a_program_that_was_exported_before() -> None:
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    model = RoIAlign(2, 0.5, 2)
    program = torch.export.export(model.eval(), arguments)
    translated = torch.onnx.export(program, dynamo=True, verbose=False)
    assert_close(runtime(translated)(*arguments), model(*arguments))


def test_the_table_holds_the_translations_of_the_exporter() -> None:
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    model = RoIAlign(2, 0.5, 2)
    programs = [exported(model, arguments, (None, {0: K}), **options) for options in (
        {}, {"custom_translation_table": translation_table()}
    )]  # fmt: skip
    assert operators(programs[0]) == operators(programs[1])


# --- detectors of torchvision


def test_a_detector_of_torchvision() -> None:
    """Its detections with these layers in onnxruntime are those of torchvision's own, run and exported."""
    torchvision: ModuleType = pytest.importorskip("torchvision", reason="torchvision is not installed")
    before = detector(torchvision, "MaskRCNN").float().eval()
    after = copy.deepcopy(before)
    assert [record.reason for record in replace_roi_layers(after)] == ["", ""]
    images = [random_tensor(3, 96, 128, seed=seed, dtype=torch.float32) for seed in range(3)]

    class Flat(nn.Module):
        """Detections in the order of torchvision's dictionaries."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> list[Tensor]:
            return list(self.model([image])[0].values())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of torchvision's own operations
        ours, stock = (runtime(traced(Flat(model), (images[0],))) for model in (after, before))
    for image in images[1:]:
        with torch.no_grad():
            expected = Flat(before)(image)
        assert len(expected[0]) > 0
        for run in (ours, stock):
            assert_close(run(image), expected, atol=1e-4, rtol=1e-5)


# --- what is refused

REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "prroi_pool": (lambda x, b: roialign_ext.prroi_pool(x, b, 2), "NotImplementedError'>: prroi_pool: cannot"),
    "ps_roi_pool": (lambda x, b: roialign_ext.ps_roi_pool(x, b, (3, 1)), "NotImplementedError'>: ps_roi_pool: cannot"),
    "multiscale_roi_align_rotated": (
        lambda x, b: roialign_ext.multiscale_roi_align_rotated([x, x], torch.cat([b, b[:, :1]], 1), 2, [1.0, 0.5], 2),
        "NotImplementedError'>: multiscale_roi_align_rotated: cannot",
    ),
    "roi_align": (
        lambda x, b: roi_align(x, b, 2, mode="max"),
        "ValueError'>: sampling_ratio: expected a positive number for the export of mode 'max'",
    ),
    "roi_align_rotated": (
        lambda x, b: roialign_ext.roi_align_rotated(x, torch.cat([b, b[:, :1]], 1), 2),
        "ValueError'>: sampling_ratio: expected a positive number for the export of roi_align_rotated",
    ),
    "roi_pool": (
        lambda x, b: roialign_ext.roi_pool(x, b, (x.size(2), 2)),
        "ValueError'>: output_size: expected constant ints",
    ),
    "crop_and_resize": (
        lambda x, b: roialign_ext.crop_and_resize(x, b[:, 1:], b[:, 0].long(), (x.size(2), 2)),
        "ValueError'>: crop_size: expected constant ints",
    ),
}


def test_operators_that_are_not_exported_are_refused() -> None:
    assert {name for name, (_, words) in REFUSED.items() if words.endswith("cannot")} == set(NOT_EXPORTED)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_argument(name: str) -> None:
    call, words = REFUSED[name]
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as error:
        exported(Lambda(call), arguments, (({2: H}, {0: K}),))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["prroi_pool", "multiscale_roi_align_rotated", "roi_align", "roi_align_rotated"])
def test_refusals_with_the_older_exporter(name: str) -> None:
    call, words = REFUSED[name]
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    kind, sentence = words.split("'>: ")
    with pytest.raises({"ValueError": ValueError, "NotImplementedError": NotImplementedError}[kind], match=sentence):
        traced(Lambda(call), arguments)


def test_opsets_without_the_operator() -> None:
    arguments = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match=r"roi_align.* opset version 15 .*version 16"):
        traced(RoIAlign(2, 0.5, 2), arguments, 15)


@pytest.mark.parametrize("call", [AVERAGE, POOLED], ids=str)
def test_the_runtime_reports_a_batch_index_outside_the_batch(call: OperatorCall) -> None:
    features, boxes = random_tensor(2, 3, 7, 9, dtype=torch.float32), BOX_SETS["inside"].float()
    run = traced_function(call, (features, boxes))
    boxes[1, 0] = 2.0
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    with pytest.raises((errors.InvalidArgument, errors.Fail), match="batch"):
        run(features, boxes)


def test_every_public_operator_is_in_the_table() -> None:
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("roialign_ext::")}
    public = {name for name in names if not name.startswith("roialign_ext::_")}
    assert {target.name() for target in translation_table()} == public


def test_a_module_that_is_not_imported_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and again where its import failed."""
    (tmp_path / "waited_for.py").write_text("import sys\nassert 'let_it_fail' not in sys.modules\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []
    finder = _onnx_registration._AfterImport({"waited_for": lambda module: seen.append(module.__name__)})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.setitem(sys.modules, "let_it_fail", ModuleType("let_it_fail"))
    with pytest.raises(AssertionError):
        importlib.import_module("waited_for")
    assert seen == []
    monkeypatch.delitem(sys.modules, "let_it_fail")
    for _ in range(2):
        importlib.import_module("waited_for")
        monkeypatch.delitem(sys.modules, "waited_for")
    assert seen == ["waited_for"]


def test_modules_that_are_imported_already(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("_register_symbolics", "_register_translations"):
        monkeypatch.setattr(_onnx_registration, name, lambda module: seen.append(module.__name__))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    names = ["torch.onnx", "torch.onnx._internal.exporter._torchlib.ops"]
    for name in names:
        importlib.import_module(name)
    _onnx_registration.register()
    assert sorted(seen) == names


def test_the_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['onnxscript'] = None; import roialign_ext, roialign_ext.onnx"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    sentence = result.stderr.splitlines()[-1]
    assert sentence == 'ImportError: roialign_ext.onnx needs onnx and onnxscript: pip install "roialign_ext[onnx]"'
