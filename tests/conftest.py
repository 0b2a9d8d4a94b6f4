"""What the tests share: inputs in every layout, sets of boxes, the bridge to the oracle, and the one tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

import reference

# The same examples on every run, so that what passes here passes everywhere; `--hypothesis-profile=search` looks for
# new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("search", deadline=None, max_examples=1000, suppress_health_check=list(HealthCheck))
settings.load_profile("repeatable")

# TorchScript is deprecated in torch and still deployed: the tests that use it do so on purpose.
KNOWN_WARNINGS = tuple(
    f"ignore:`torch.jit.*` is {state}:{category}"
    for state in ("deprecated", "not supported in Python 3.14")
    for category in ("DeprecationWarning", "FutureWarning")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets `pytest -W error`, as CI runs it, fail on unknown warnings alone: a mark goes before the command line."""
    for item in items:
        for known in KNOWN_WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(known))


LOW_PRECISION = (torch.float16, torch.bfloat16)
DTYPES = (*LOW_PRECISION, torch.float32, torch.float64)
LAYOUTS = (
    "contiguous",
    "channels_last",
    "permuted",
    "sliced",
    "expanded_images",
    "expanded_channels",
    "expanded_pixels",
    "reversed",
)
MODES = ("avg", "max")

SUM_ROUNDINGS = 32
"""Roundings of the arithmetic type that one result may collect, in units of the sum of absolute terms."""


class OperatorCall(Protocol):
    """One operator with its arguments after ``input`` and ``boxes``: the package's, and the oracle's in float64."""

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        """The package's result."""

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's output."""

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's input gradient."""

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's box gradient."""

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        """What the absolute values of the terms of every output add up to."""

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """What those of the input gradient add up to."""

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """What those of the box gradient add up to at most."""


def output_terms(grad: Tensor, features: Tensor) -> Tensor:
    """For every box: the sum of ``|grad|`` times the largest step between two pixels, ``[K, 1]``."""
    step = 2.0 * float(features.detach().double().abs().max()) if features.numel() else 0.0
    return (grad.double().abs().sum((1, 2, 3)) * step)[:, None]


@dataclass(frozen=True)
class Call:
    """``roi_align`` with its arguments after ``input`` and ``boxes``."""

    output_size: tuple[int, int] = (2, 2)
    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    aligned: bool = False
    mode: str = "avg"

    def __call__(self, features: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        """The package's result."""
        from roialign_ext import roi_align

        result: Tensor = roi_align(
            features, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.mode
        )
        return result

    def params(self, features: Tensor, boxes: Tensor) -> reference.Params:
        """The oracle's arguments: coordinates are float64 where the input or the boxes are, else float32."""
        double = torch.float64 in (features.dtype, boxes.dtype)
        kind = np.float64 if double else np.float32
        return reference.Params(self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, kind)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's output, float64."""
        params = self.params(features, boxes)
        return torch.from_numpy(reference.forward(as_array(features), as_array(boxes), params, self.mode))

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's input gradient, float64."""
        arrays = (as_array(grad), as_array(features), as_array(boxes))
        return torch.from_numpy(reference.input_gradient(*arrays, self.params(features, boxes), self.mode))

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """The oracle's box gradient, float64."""
        arrays = (as_array(grad), as_array(features), as_array(boxes))
        return torch.from_numpy(reference.box_gradient(*arrays, self.params(features, boxes), self.mode))

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        """The weights are not negative, so it is the result for ``|features|``."""
        return self.forward(features.abs(), boxes)

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """The same for ``|grad|``."""
        return self.input_gradient(grad.abs(), features, boxes)

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """At most the sum of |G| over the outputs, times the largest step of the map, times the scale."""
        return (output_terms(grad, features) * self.spatial_scale).expand(boxes.shape)


def as_array(tensor: Tensor) -> reference.Array:
    """``tensor`` as a float64 array, exactly."""
    return np.asarray(tensor.detach().double().contiguous().numpy())


def generator(seed: int) -> torch.Generator:
    """A generator of its own for every use: no test depends on the order of the others."""
    return torch.Generator().manual_seed(seed)


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that ``dtype`` holds exactly."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def with_layout(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape and dtype, other strides; the expanded ones repeat image 0 or channel 0."""
    n, c, h, w = tensor.shape
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":
        return tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if layout == "sliced":
        storage = torch.full((n + 1, c + 2, h + 3, 2 * w + 1), float("nan"), dtype=tensor.dtype)
        view = storage[1:, 1:-1, 2:-1, 1::2]
        view.copy_(tensor)
        return view
    if layout == "expanded_images":
        return tensor[:1].contiguous().expand(n, c, h, w)
    if layout == "expanded_channels":
        return tensor[:, :1].contiguous().expand(n, c, h, w)
    if layout == "expanded_pixels":
        return tensor[:, :, :1, :1].contiguous().expand(n, c, h, w)
    if layout == "reversed":
        return tensor.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    raise ValueError(layout)


def rows(*corners: tuple[float, float, float, float], image: int = 0) -> Tensor:
    """Box rows of one image, float64."""
    return torch.tensor([[float(image), *corner] for corner in corners], dtype=torch.float64).reshape(-1, 5)


NAN, INF = float("nan"), float("inf")
BOX_SETS: dict[str, Tensor] = {
    "inside": rows((1.2, 0.7, 5.9, 4.1), (0.3, 2.2, 3.1, 6.4), (2.0, 1.0, 6.0, 5.0)),
    "crossing": rows((-3.7, -2.1, 4.4, 3.3), (5.1, 3.9, 14.2, 11.8), (-6.0, 2.5, 13.0, 3.5), (-0.9, -0.8, 0.4, 0.3)),
    "outside": rows((-30.0, 1.0, -20.0, 4.0), (1.0, 40.0, 4.0, 50.0), (100.0, 100.0, 101.0, 101.0)),
    "empty": rows((3.0, 2.0, 3.0, 2.0), (1.5, 1.5, 4.5, 1.5), (2.25, 0.75, 2.25, 3.75), (0.0, 0.0, 0.0, 0.0)),
    "reversed": rows((5.2, 4.3, 1.1, 0.4), (5.2, 0.4, 1.1, 4.3), (2.0, 3.0, -40.0, 2.5)),
    "border": rows((0.0, 0.0, 9.0, 7.0), (-1.0, -1.0, 10.0, 8.0), (8.0, 6.0, 9.0, 7.0), (-0.5, -0.5, 0.5, 0.5)),
    "tiny": rows((3.1, 2.9, 3.2, 3.0), (0.001, 0.001, 0.002, 0.002), (8.4, 6.4, 8.6, 6.6)),
    "large": rows((-300.3, -200.7, 411.9, 333.3), (3.3, -1e3, 4.4, 1e3)),
    "not_finite": rows(
        (NAN, 1.0, 3.0, 4.0), (1.0, NAN, 3.0, 4.0), (1.0, 1.0, NAN, 4.0), (1.0, 1.0, 3.0, NAN), (INF, 1.0, 3.0, 4.0),
        (-INF, 1.0, 3.0, 4.0), (1.0, 1.0, INF, 4.0), (1.0, -INF, 3.0, INF), (-INF, -INF, INF, INF), (NAN,) * 4,
    ),
}  # fmt: skip
"""Boxes in map pixels (scale 1) around a map of 7 rows and 9 columns; every row is of image 0."""


def spread(boxes: Tensor, images: int) -> Tensor:
    """``boxes`` dealt out over ``images`` images in an order that is not sorted."""
    result = boxes.clone()
    result[:, 0] = (torch.arange(len(boxes)) + 1).remainder(images)
    return result


def all_boxes(images: int = 1) -> Tensor:
    """Every set of ``BOX_SETS``, one after the other."""
    return spread(torch.cat(list(BOX_SETS.values())), images)


def smooth_boxes(count: int, shape: tuple[int, ...], call: Call, seed: int = 0, distance: float = 1e-3) -> Tensor:
    """Random boxes over and around maps of ``shape`` near which ``call`` is differentiable.

    Every sample keeps ``distance`` (map pixels) from the borders of its cell, and the sizes from where the sample count
    or the legacy minimum changes.
    """
    images, _, height, width = shape
    random = np.random.default_rng(seed)
    params = reference.Params(call.output_size, call.spatial_scale, call.sampling_ratio, call.aligned)
    found: list[list[float]] = []
    while len(found) < count:
        x, y = random.uniform(-1.5, width - 1.0), random.uniform(-1.5, height - 1.0)
        corners = np.array([x, y, x + random.uniform(0.3, width), y + random.uniform(0.3, height)]) / call.spatial_scale
        row = np.array([len(found) % images, *corners])
        if reference.distance_to_kinks(row[None], height, width, params) > distance:
            found.append([float(value) for value in row])
    return torch.tensor(found, dtype=torch.float64)


def assert_within_rounding(
    actual: Tensor, expected: Tensor, magnitude: Tensor, arithmetic: torch.dtype | None = None
) -> None:
    """``actual`` is the float64 ``expected`` up to rounding.

    The tolerance is a ratio, for every dtype: twice the error of rounding the exact result once to ``actual.dtype``,
    plus what sums in the arithmetic type (by default float32, float64 for float64) may collect on terms whose absolute
    values add up to ``magnitude``, or to the largest finite one where it is infinite. Infinite results are exact.
    """
    assert actual.shape == expected.shape
    storage = torch.finfo(actual.dtype)
    sums = torch.finfo(arithmetic or (torch.float64 if actual.dtype == torch.float64 else torch.float32))
    smallest = storage.smallest_normal * storage.eps
    finite = magnitude.abs().masked_fill(~magnitude.isfinite(), 0.0)
    largest = float(finite.max()) if finite.numel() > 0 else 0.0
    terms = torch.where(magnitude.isinf(), expected.abs().clamp(min=largest), magnitude.abs())
    bound = storage.eps * expected.abs() + SUM_ROUNDINGS * sums.eps * terms + smallest
    bound = bound.masked_fill(expected.isinf(), 0.0)
    actual = actual.detach().double()
    right = ((actual - expected).abs() <= bound) | (actual == expected) | (actual.isnan() & expected.isnan())
    if not bool(right.all()):
        first = tuple(int(i) for i in (~right).nonzero()[0])
        raise AssertionError(
            f"{int((~right).sum())} of {right.numel()} elements off; at {first}: got {actual[first].item()}, expected"
            f" {expected[first].item()}, allowed error {bound[first].item():.3g}"
        )


def assert_matches_oracle(call: OperatorCall, features: Tensor, boxes: Tensor) -> Tensor:
    """Runs the package, holds the result against the oracle, returns it."""
    out = call(features, boxes)
    assert out.dtype == features.dtype
    assert_within_rounding(out, call.forward(features, boxes), call.forward_terms(features, boxes))
    return out


def assert_input_gradient_matches_oracle(call: OperatorCall, features: Tensor, boxes: Tensor, grad: Tensor) -> Tensor:
    """Runs forward and backward by the input alone, holds the gradient against the oracle, returns it."""
    features = features.detach().requires_grad_()
    (by_input,) = torch.autograd.grad(call(features, boxes.detach()), features, grad)
    assert by_input.dtype == features.dtype
    terms = call.input_terms(grad, features, boxes)
    assert_within_rounding(by_input, call.input_gradient(grad, features, boxes), terms)
    return by_input


def assert_gradients_match_oracle(
    call: OperatorCall, features: Tensor, boxes: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs forward and backward, holds both gradients against the oracle, returns them."""
    features, boxes = features.detach().requires_grad_(), boxes.detach().requires_grad_()
    by_input, by_boxes = torch.autograd.grad(call(features, boxes), (features, boxes), grad)
    assert by_input.dtype == features.dtype
    assert by_boxes.dtype == boxes.dtype
    terms = call.input_terms(grad, features, boxes)
    assert_within_rounding(by_input, call.input_gradient(grad, features, boxes), terms)
    terms = call.box_terms(grad, features, boxes)
    arithmetic = torch.float64 if features.dtype == torch.float64 and boxes.dtype == torch.float64 else torch.float32
    assert_within_rounding(by_boxes, call.box_gradient(grad, features, boxes), terms, arithmetic)
    assert not bool(by_boxes[:, 0].any())
    return by_input, by_boxes


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Puts the number of threads back after the test."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread(restore_threads: None) -> None:
    """For thousands of tiny calls: waking threads would take longer than the work."""
    torch.set_num_threads(1)
