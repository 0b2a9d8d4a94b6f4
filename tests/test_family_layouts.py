"""Strides are a matter of speed only, for the operators beside ``roi_align`` too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import DTYPES, LAYOUTS, assert_matches_oracle, random_tensor, with_layout
from family import FAMILY, MAXIMA, WITH_BOX_GRADIENT, RoIPoolCall, boxes_for, output_of
from test_family_forward import FORMATS
from test_family_gradients import assert_all_gradients_match_oracle
from test_layouts import allocated_bytes, every_other, wider_rows

# a map of one value per channel leaves the winner of a maximum of interpolated samples to rounding
NAMES_AND_LAYOUTS = [
    (name, layout)
    for name in FAMILY
    for layout in LAYOUTS
    if layout != "expanded_pixels" or name not in MAXIMA or isinstance(FAMILY[name], RoIPoolCall)
]


@pytest.mark.parametrize(("name", "layout"), NAMES_AND_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_gradients(name: str, layout: str, dtype: torch.dtype) -> None:
    call = FAMILY[name]
    features = with_layout(random_tensor(2, 19, 7, 9, seed=1, dtype=dtype), layout)
    boxes = boxes_for(call, "inside", "crossing", dtype=torch.float32)
    assert_matches_oracle(call, features, boxes)
    grad = with_layout(random_tensor(*output_of(call, features, boxes), seed=2, dtype=dtype), layout)
    assert_all_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_layouts_of_the_output_gradient(name: str, grad_layout: str) -> None:
    """Expanded ones too, which ``out.sum().backward()`` and means over channels hand back."""
    call = FAMILY[name]
    features = random_tensor(2, 3, 7, 9, seed=1).contiguous(memory_format=torch.channels_last)
    boxes = boxes_for(call, "inside", "crossing")
    grad = with_layout(random_tensor(*output_of(call, features, boxes), seed=2), grad_layout)
    assert_all_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("layout", FORMATS)
def test_gradient_without_strides(name: str, layout: torch.memory_format) -> None:
    """``out.sum().backward()`` hands a gradient of one element with strides of 0."""
    features = random_tensor(2, 3, 7, 9, seed=1).contiguous(memory_format=layout).requires_grad_()
    boxes = boxes_for(FAMILY[name]).requires_grad_(name in WITH_BOX_GRADIENT)
    leaves = (features, boxes) if boxes.requires_grad else (features,)
    out = FAMILY[name](features, boxes)
    expected = torch.autograd.grad(out, leaves, torch.ones_like(out), retain_graph=True)
    for actual, exact in zip(torch.autograd.grad(out.sum(), leaves), expected, strict=True):
        torch.testing.assert_close(actual, exact, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_boxes_of_any_stride(name: str, dtype: torch.dtype) -> None:
    features = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)
    boxes = boxes_for(FAMILY[name], "inside", "crossing", "tiny", dtype=dtype)
    columns = boxes.shape[1]
    wide = torch.nn.functional.pad(boxes, (0, 6 - columns), value=float("nan"))
    variants = [boxes.t().contiguous().t(), wide[:, :columns], wide.repeat_interleave(2, 0)[::2, :columns]]
    if columns == 5:
        variants += [wider_rows(boxes), every_other(boxes)]
    results: list[list[Tensor]] = []
    for variant in (boxes, *variants):
        assert torch.equal(variant, boxes)
        leaves = [features.clone().requires_grad_(), variant.detach().requires_grad_(name in WITH_BOX_GRADIENT)]
        out = FAMILY[name](*leaves)
        grad = random_tensor(*out.shape, seed=2, dtype=torch.float32)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        results.append([out, *torch.autograd.grad(out, wanted, grad)])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_memory_format_of_results(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The output has the input's memory format, and so has the input gradient, whatever the output gradient has."""
    features = random_tensor(2, 3, 7, 9, seed=1, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    out = FAMILY[name](features, boxes_for(FAMILY[name], "inside", dtype=torch.float32))
    other = next(format for format in FORMATS if format != layout)
    assert out.is_contiguous(memory_format=layout)
    assert not out.is_contiguous(memory_format=other)
    for grad_format in FORMATS:
        grad = torch.ones_like(out).contiguous(memory_format=grad_format)
        (by_input,) = torch.autograd.grad(out, features, grad, retain_graph=True)
        assert by_input.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_copy_of_the_map(name: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """A few boxes on a map of 8 to 16 MB: no call allocates anything near a map."""
    features = torch.ones(1, 64, 256, 256, dtype=dtype).contiguous(memory_format=layout)
    boxes = boxes_for(FAMILY[name], "inside", images=1, dtype=torch.float32)[:2]
    size = features.numel() * features.element_size()
    assert allocated_bytes(lambda: FAMILY[name](features, boxes)) < size // 8
