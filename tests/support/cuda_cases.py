"""Calls of the private operators that compare CUDA kernels with the CPU's, on the host shim and on a device.

Sizes cross the limits of the kernels' loops: more boxes than a block has threads, more bins than a warp has lanes,
channels that are no multiple of a vector, maps of several tiles, levels without boxes, empty maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import roialign_ext  # noqa: F401  (registers the operators)
from support.inputs import BOX_SETS, generator, random_tensor, spread, with_layout, xyxy
from support.operators import RULES, WITHOUT_BOX_DERIVATIVE
from support.tolerance import assert_within_rounding

CANCELLATION = 4
"""The terms of a derivative cancel: so many times its largest value, plus the largest operand, bounds their sum."""

Planes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Case:
    """The arguments of one call; ``str`` names the test."""

    rule: str = "roi_align_half_pixel"
    planes: Planes = ((7, 9),)
    images: int = 2
    channels: int = 3
    bins: tuple[int, int] = (2, 3)
    ratio: int = 2
    boxes: str = "all"
    dtype: torch.dtype = torch.float32
    box_dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    extrapolation_value: float = 0.0

    def __post_init__(self) -> None:
        if self.parts > 1:  # a box is one bin
            object.__setattr__(self, "bins", (1, 1))

    def __str__(self) -> str:
        parts = []
        for name, default in Case.__dataclass_fields__.items():
            value = getattr(self, name)
            if name == "rule" or value != default.default:
                text = str(value).removeprefix("torch.")
                parts.append(text if name == "rule" else f"{name}={text.replace(' ', '')}")
        return "-".join(parts)

    @property
    def rotated(self) -> bool:
        return self.rule.startswith("rotated")

    @property
    def parts(self) -> int:
        """Images and boxes of a private operator for each image and box: position-sensitive rules have one per bin."""
        return 6 if self.rule.startswith("ps_") else 1

    @property
    def has_maximum(self) -> bool:
        # On a constant map all samples are equal up to rounding, which would choose the argmax.
        constant = self.layout == "expanded_pixels" and self.rule != "roi_pool"
        return not self.rotated and self.rule != "prroi_pool" and self.parts == 1 and not constant

    @property
    def has_mean(self) -> bool:
        return self.rule != "roi_pool"

    @property
    def follows_boxes(self) -> bool:
        return self.rule not in WITHOUT_BOX_DERIVATIVE

    @property
    def geometry(self) -> tuple[list[float], list[float], int, str]:
        """scales, rule_args, sampling_ratio, rule."""
        ratio = max(self.ratio, 1) if self.rule.startswith("crop") else self.ratio
        rule_args = [8.0, 1.0] if self.parts == 1 else [2.0, 3.0]
        return [2.0**-level for level in range(len(self.planes))], rule_args, ratio, self.rule

    @property
    def input_size(self) -> list[int]:
        return [self.images * self.parts, self.channels, *(size for plane in self.planes for size in plane)]

    def maps(self) -> list[Tensor]:
        """Standard normal features."""
        return [
            with_layout(random_tensor(*self.input_size[:2], *plane, seed=level, dtype=self.dtype), self.layout)
            if min(plane) > 0
            else torch.empty(*self.input_size[:2], *plane, dtype=self.dtype)
            for level, plane in enumerate(self.planes)
        ]

    def boxes_tensor(self) -> Tensor:
        """The boxes in the columns of the rule."""
        if self.boxes in ("all", *BOX_SETS):
            corners = torch.cat(list(BOX_SETS.values())) if self.boxes == "all" else BOX_SETS[self.boxes]
            boxes = spread(corners, self.images)
        elif self.boxes == "map":  # crops of the whole map, in both directions
            boxes = spread(xyxy((0.0, 0.0, 8.0, 8.0), (8.0, 8.0, 0.0, 0.0)), self.images)
        else:
            boxes = self._random_boxes(int(self.boxes))
        if self.rule.startswith("crop"):
            boxes[:, 1:] /= 8
        if self.rotated:
            x1, y1, x2, y2 = boxes[:, 1:].unbind(1)
            turned = torch.linspace(-100, 200, len(boxes), dtype=torch.float64)
            angle = turned / 57 if self.rule.endswith("radian") else turned
            boxes = torch.stack([boxes[:, 0], (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1).abs(), (y2 - y1).abs(), angle], 1)
        return boxes.to(self.box_dtype).repeat_interleave(self.parts, 0)

    def _random_boxes(self, count: int) -> Tensor:
        height, width = self.planes[0]
        unit = torch.rand(count, 5, generator=generator(7), dtype=torch.float64)
        centre = (unit[:, :2] * 1.2 - 0.1) * torch.tensor([width, height])
        size = 1.5 * (max(height, width) / 1.5) ** unit[:, 2:4]
        image = (unit[:, 4] * self.images).floor()
        return torch.cat([image[:, None], centre - size / 2, centre + size / 2], dim=1)

    def directions(self, order: int) -> list[Tensor | None]:
        """u and v; None beyond ``order``."""
        return [
            random_tensor(*self.boxes_tensor().shape, seed=20 + i, dtype=self.box_dtype) if i < order else None
            for i in range(2)
        ]

    def grad(self) -> Tensor:
        """A gradient of the output."""
        count = len(self.boxes_tensor())
        return with_layout(random_tensor(count, self.channels, *self.bins, seed=9, dtype=self.dtype), self.layout)


Result = tuple[Tensor, ...]


@dataclass(frozen=True)
class Operators:
    """The private operators of one device; results are moved to the CPU."""

    namespace: Any
    device: str = "cpu"

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Tensor) and self.device != "cpu":
            # The copy keeps the strides, zeros and gaps included.
            storage = value.untyped_storage().to(device=self.device)
            moved = torch.empty(0, dtype=value.dtype, device=self.device)
            return moved.set_(storage, value.storage_offset(), value.shape, value.stride())
        if isinstance(value, list):
            return [self._moved(element) for element in value]
        return value

    def __call__(self, name: str, *arguments: Any) -> Result:
        result = getattr(self.namespace, name)(*(self._moved(argument) for argument in arguments))
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        return tuple(tensor.to("cpu") for tensor in results)


CPU = Operators(torch.ops.roialign_ext)


@dataclass(frozen=True)
class Calculation:
    """One call of an operator."""

    name: str
    run: Callable[[Operators], Result]
    magnitude: Callable[[], Result] | None = None  # sums of absolute terms; None if unknown
    operand: float = 0.0  # the largest term of the sums


def calculations(case: Case) -> Iterator[Calculation]:
    """All operator calls that the rule of ``case`` permits."""
    maps, boxes, grad = case.maps(), case.boxes_tensor(), case.grad()
    absolute = [features.abs() for features in maps]
    geometry = case.geometry
    largest_feature = max(
        (float(feature_map.max()) for feature_map in absolute if feature_map.numel() > 0), default=0.0
    )
    largest_grad = float(grad.abs().max()) if grad.numel() > 0 else 0.0

    def of_argmax(argmax: Tensor | None) -> str:
        return "" if argmax is None else " with an argmax"

    def pool(order: int, argmax: Tensor | None) -> Calculation:
        u, v = case.directions(order)
        value = case.extrapolation_value if order == 0 and argmax is None else 0.0

        def run(ops: Operators) -> Result:
            return ops("_pool", maps, boxes, u, v, argmax, case.bins, *geometry, value)

        def magnitude() -> Result:
            return CPU("_pool", absolute, boxes, u, v, argmax, case.bins, *geometry, abs(value))

        name = f"pool order {order}{of_argmax(argmax)}"
        return Calculation(name, run, magnitude if order == 0 else None, largest_feature)

    def grad_input(order: int, argmax: Tensor | None, channels_last: bool) -> Calculation:
        u, v = case.directions(order)

        def call(ops: Operators, bins: Tensor) -> Result:
            size = case.input_size
            return ops("_pool_grad_input", bins, boxes, u, v, argmax, size, channels_last, *geometry)

        layout = "channels_last" if channels_last else "contiguous"
        magnitude = (lambda: call(CPU, grad.abs())) if order == 0 else None
        name = f"{layout} grad_input order {order}{of_argmax(argmax)}"
        return Calculation(name, lambda ops: call(ops, grad), magnitude, largest_grad)

    def grad_boxes(order: int, argmax: Tensor | None) -> Calculation:
        v = case.directions(order)[0]
        return Calculation(
            f"grad_boxes order {order}{of_argmax(argmax)}",
            lambda ops: ops("_pool_grad_boxes", grad, maps, boxes, v, argmax, *geometry),
            operand=largest_grad * largest_feature,
        )

    if case.has_maximum:
        yield Calculation(
            "max",
            lambda ops: ops("_max_pool", maps, boxes, case.bins, *geometry),
            lambda: CPU("_max_pool", absolute, boxes, case.bins, *geometry),
        )
    orders = range(3) if case.follows_boxes else range(1)
    argmaxes = [None] if case.has_mean else []
    if case.has_maximum:
        argmaxes.append(CPU("_max_pool", maps, boxes, case.bins, *geometry)[1])
    for argmax in argmaxes:
        for order in orders:
            yield pool(order, argmax)
            for channels_last in (False, True):
                yield grad_input(order, argmax, channels_last)
        for order in range(2) if case.follows_boxes else ():
            yield grad_boxes(order, argmax)


def assert_agree(case: Case, calculation: Calculation, actual: Result) -> None:
    """Asserts equality with the CPU's result up to the rounding of sums over samples; integers must be equal."""
    expected = calculation.run(CPU)
    magnitudes = calculation.magnitude() if calculation.magnitude is not None else None
    arithmetic = torch.float64 if case.dtype == torch.float64 else torch.float32
    samples = max(1.0, case.ratio / 4)
    assert len(actual) == len(expected), calculation.name
    for i, (result, other) in enumerate(zip(actual, expected, strict=True)):
        assert (result.dtype, result.shape) == (other.dtype, other.shape), calculation.name
        assert result.stride() == other.stride() or result.numel() == 0, calculation.name
        if not result.dtype.is_floating_point:
            assert torch.equal(result, other), calculation.name
            continue
        finite = other[other.isfinite()].abs().double()
        largest = finite.max() if finite.numel() > 0 else torch.zeros((), dtype=torch.float64)
        magnitude = CANCELLATION * largest + calculation.operand if magnitudes is None else magnitudes[i].double()
        try:
            assert_within_rounding(result, other.double(), samples * magnitude, arithmetic)
        except AssertionError as error:
            raise AssertionError(f"{calculation.name}: {error}") from error


def same_bits(first: Result, other: Result) -> bool:
    """Whether all results are bit-equal, NaN included."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return all(
        a.shape == b.shape and torch.equal(a.view(integers[a.element_size()]), b.view(integers[b.element_size()]))
        for a, b in zip(first, other, strict=True)
    )


ALL = [Case(rule=rule, ratio=ratio) for rule in RULES for ratio in (-1, 2)]
DTYPES = [
    Case(rule=rule, dtype=dtype, box_dtype=box_dtype, boxes="20")
    for rule in ("roi_align_legacy", "prroi_pool", "roi_pool", "ps_roi_align", "crop_bilinear", "rotated_legacy")
    for dtype, box_dtype in [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float64, torch.float64),
    ]
]
LAYOUTS = [
    Case(rule=rule, layout=layout, channels=5, boxes="12")
    for rule in ("roi_align_half_pixel", "roi_pool", "rotated_half_pixel")
    for layout in (
        "channels_last",
        "permuted",
        "sliced",
        "expanded_images",
        "expanded_channels",
        "expanded_pixels",
        "reversed",
    )
]
# The same with lanes of grad_input as channels.
LAYOUTS += [
    Case(layout=layout, channels=36, boxes="12")
    for layout in ("permuted", "sliced", "expanded_images", "expanded_channels", "expanded_pixels", "reversed")
]
PYRAMID = ((24, 40), (12, 20), (6, 10), (3, 5))
BOUNDARIES = (
    [
        case
        for rule in ("roi_align_legacy", "prroi_pool", "roi_pool", "ps_roi_pool", "crop_nearest", "rotated_half_pixel")
        for case in (
            Case(rule=rule, boxes="300", channels=1, bins=(1, 1), images=1),  # more boxes of an image than threads
            Case(
                rule=rule, boxes="65", channels=1, images=1
            ),  # one more than fits a piece of scratch memory of 256 bytes
            Case(rule=rule, boxes="3", channels=130, bins=(7, 7), planes=((5, 6),), images=1),
            Case(rule=rule, boxes="3", channels=300, planes=((5, 6),), images=1),  # more than a block has
            Case(rule=rule, boxes="2", channels=129, bins=(2, 2), layout="channels_last", dtype=torch.bfloat16),
            Case(rule=rule, boxes="3", channels=2, bins=(35, 2), planes=((40, 11),)),  # more bins than lanes
            Case(rule=rule, boxes="3", channels=2, bins=(2, 35), planes=((11, 40),)),
            Case(rule=rule, boxes="2", channels=1, bins=(130, 1), planes=((20, 4),)),
            Case(rule=rule, boxes="5", channels=2, bins=(1, 1), planes=((37, 90),), ratio=-1),  # several tiles, one bin
            Case(rule=rule, boxes="40", channels=3, bins=(3, 3), planes=((19, 70),), images=1),
            Case(rule=rule, boxes="3", channels=2, ratio=40, dtype=torch.float64),  # grids found by bisection
            Case(rule=rule, boxes="4", planes=((1, 1),)),
            Case(rule=rule, boxes="4", planes=((1, 30),)),
            Case(rule=rule, boxes="inside", planes=((0, 5),)),  # a map without pixels
            Case(rule=rule, boxes="0"),
        )
    ]
    + [
        case
        for rule in ("roi_align_half_pixel", "prroi_pool", "roi_pool", "roi_warp")
        for case in (
            Case(rule=rule, planes=PYRAMID, boxes="60", images=3),
            Case(rule=rule, planes=PYRAMID[:2], boxes="all", images=1),
            Case(rule=rule, planes=(*PYRAMID, (2, 3), (1, 2), (1, 1), (0, 0)), boxes="20", channels=2),
            Case(rule=rule, planes=PYRAMID, boxes="40", dtype=torch.float16, channels=34, layout="channels_last"),
        )
    ]
    + [
        case
        for rule in ("roi_align_legacy", "prroi_pool")
        for case in (
            # channels_last: as many channels as the widest packs need, and some more; a pixel of more bins than
            # lanes, of each kind of packs; columns of several tiles.
            Case(rule=rule, boxes="7", channels=160, bins=(3, 5), planes=((11, 19),), layout="channels_last"),
            Case(rule=rule, boxes="7", channels=132, planes=((9, 17),), layout="channels_last", dtype=torch.float16),
            Case(rule=rule, boxes="7", channels=66, bins=(5, 3), layout="channels_last", dtype=torch.float64),
            Case(rule=rule, boxes="2", channels=33, bins=(70, 37), planes=((2, 3),), images=1, layout="channels_last"),
            Case(rule=rule, boxes="2", channels=128, bins=(3, 70), planes=((2, 3),), images=1, layout="channels_last"),
            # NCHW: more channels than a thread has; lines of bins that need half of the lanes, or all of them;
            # maps of a few columns, of half as many as a warp has lanes, and of more.
            Case(rule=rule, boxes="6", channels=70, bins=(2, 8), planes=((9, 45),)),
            Case(rule=rule, boxes="6", channels=41, bins=(2, 9), planes=((9, 45),)),
            Case(rule=rule, boxes="6", channels=32, bins=(2, 3), planes=((17, 6),), dtype=torch.bfloat16),
            Case(rule=rule, boxes="6", channels=33, bins=(2, 20), planes=((17, 14),), dtype=torch.float64),
        )
    ]
    + [
        Case("rotated_half_pixel", PYRAMID, 3, boxes="40"),
        Case("rotated_legacy", PYRAMID[:3], boxes="20", channels=34, layout="channels_last"),
        Case("rotated_legacy_radian", (*PYRAMID[:2], (0, 0)), boxes="all", dtype=torch.float16),
    ]
    + [Case(rule="crop_bilinear", extrapolation_value=3.5), Case(rule="crop_nearest", extrapolation_value=float("inf"))]
    # The sum of the rounded steps is larger than the map.
    + [
        Case(rule=rule, boxes="map", planes=((4, 4),), bins=bins, ratio=ratio, extrapolation_value=3.5)
        for rule in ("crop_bilinear", "crop_nearest")
        for bins, ratio in (((22, 3), 1), ((3, 11), 2))
    ]
)
# grad_input with lanes as channels: more bins in a tile than its tables hold, along each axis; boxes that
# fill batches and pieces of the list; pyramids.
BOUNDARIES += [
    case
    for rule in ("roi_align_legacy", "prroi_pool")
    for case in (
        Case(rule=rule, boxes="3", channels=33, bins=(35, 2), planes=((40, 11),)),
        Case(rule=rule, boxes="3", channels=34, bins=(2, 35), planes=((11, 40),)),
        Case(rule=rule, boxes="2", channels=32, bins=(37, 70), planes=((3, 2),), images=1),
        Case(rule=rule, boxes="260", channels=32, bins=(1, 2), planes=((19, 30),), images=1),
        Case(rule=rule, boxes="60", channels=40, planes=PYRAMID, images=2),
        Case(rule=rule, boxes="0", channels=33),
        Case(rule=rule, boxes="inside", channels=33, planes=((0, 5),)),
    )
]
# Gradients that are copied to channels_last: bins of a box in one piece, odd and even numbers of them, in several tiles
# of bins or of channels; by vectors of a channel; element by element.
BOUNDARIES += [
    Case(boxes="2", channels=channels, bins=bins, planes=((5, 6),), images=1, dtype=dtype)
    for channels, bins, dtype in (
        (136, (7, 7), torch.float32),
        (136, (7, 7), torch.bfloat16),
        (34, (7, 7), torch.float64),
        (36, (14, 14), torch.float32),
        (72, (14, 14), torch.float16),
        (33, (7, 7), torch.float32),
        (36, (1, 1), torch.float32),
        (36, (20, 20), torch.float32),
        (40, (16, 20), torch.bfloat16),
        (33, (17, 19), torch.float32),
        (35, (17, 19), torch.float16),
        (34, (17, 19), torch.float64),
    )
]
# grad_input with enough tiles and channels for the largest chunks of channels (kManyBlocks); an odd number of channels
# too, since the gradient is copied.
MANY_BLOCKS = [
    Case("prroi_pool", boxes="8", channels=channels, planes=((5, 9),), images=32, layout=layout, dtype=dtype)
    for channels, layout, dtype in (
        (1028, "channels_last", torch.float16),
        (1027, "contiguous", torch.bfloat16),
        (1028, "channels_last", torch.float32),
        (1027, "contiguous", torch.float32),
        (1028, "channels_last", torch.float64),
    )
]
CASES = ALL + DTYPES + LAYOUTS + BOUNDARIES


def _average_pool(rule: str) -> Iterator[Case]:
    """Cases of average pooling: the choice between its kernels, and the limits of their loops."""
    copied = partial(Case, rule, ((9, 14),), 1, boxes="9")  # small map: NCHW is copied to channels_last first
    direct = partial(Case, rule, ((40, 60),), boxes="4")  # large map: NCHW is read in place
    half, brain, double = torch.float16, torch.bfloat16, torch.float64
    # Packs of 16, 8 and 2 to 8 bytes, with channels left over in the last block; channels_last results; results
    # collected in one contiguous piece, in rows of an odd and of an even number of bins, and in several rounds.
    yield copied(channels=128, bins=(7, 7))
    yield copied(channels=130, bins=(7, 7))
    yield copied(channels=160, bins=(7, 7), layout="channels_last")
    yield copied(channels=132, bins=(14, 14))
    yield copied(channels=132, bins=(8, 3))
    yield copied(channels=128, bins=(21, 7))  # rounds of an odd number of bins
    yield copied(channels=128, bins=(3, 80))  # more bins than can be collected of so many channels
    yield copied(channels=33, bins=(2, 300))  # or of any
    yield copied(channels=264, bins=(7, 7), dtype=brain)
    yield copied(channels=264, bins=(7, 7), dtype=half, layout="channels_last")
    yield copied(channels=132, bins=(5, 3), dtype=half)
    yield copied(channels=131, bins=(5, 3), dtype=brain)
    yield copied(channels=66, bins=(7, 7), dtype=double)
    yield copied(channels=65, bins=(4, 3), dtype=double)
    for layout in ("sliced", "permuted", "reversed", "expanded_channels", "expanded_pixels"):
        yield copied(channels=132, layout=layout)
    # NCHW maps read in place: channels of several blocks, and fewer than a lane has; rows of one run, and of several.
    yield direct(channels=70, bins=(7, 7))
    yield direct(channels=64, bins=(14, 14))
    yield direct(channels=3, bins=(3, 20))
    yield direct(channels=5, bins=(9, 81))  # more bins than can be collected, and rows that fill no second round
    yield direct(channels=65, bins=(2, 17), dtype=double)
    yield direct(channels=66, bins=(8, 9), dtype=brain)
    # Bins whose taps are more than a warp has lanes, boxes whose taps are more than shared memory has room for, and
    # more bins than its lists may have.
    for channels, layout in ((3, "contiguous"), (33, "channels_last"), (132, "contiguous")):
        large = partial(Case, rule, images=1, boxes="8", channels=channels, layout=layout, ratio=-1)
        yield large(((30, 130),), bins=(2, 1))
        yield large(((3, 1500),), bins=(1, 9), boxes="24")
        yield large(((1500, 3),), bins=(9, 1), boxes="24")
        yield large(((3, 600),), bins=(1, 3), dtype=double)
        yield large(((4, 5),), bins=(2, 131))
        yield large(((4, 5),), bins=(131, 2))


AVERAGE_POOL = [case for rule in ("roi_align_half_pixel", "prroi_pool") for case in _average_pool(rule)]
# Cases for one operator each, with the names of its calculations.
OF_ONE_OPERATOR = [
    *((case, ("pool order 0", "pool order 1")) for case in AVERAGE_POOL),
    *((case, ("contiguous grad_input order 0", "channels_last grad_input order 0")) for case in MANY_BLOCKS),
]
# Every kernel, for the slower builds: rules differ only in the tables that the kernels over features read.
SANITIZED = [
    case
    for case in CASES
    if case.rule in ("roi_align_legacy", "roi_pool", "rotated_half_pixel") or case.extrapolation_value != 0
] + [Case(rule="prroi_pool"), Case(rule="prroi_pool", planes=PYRAMID, boxes="60", images=3)]
