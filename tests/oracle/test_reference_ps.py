"""Are the oracles of ``ps_roi_align`` and ``ps_roi_pool`` right: by hand, by ``roi_align``, by means of slices?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import reference
from support.inputs import BOX_SETS, as_array, random_tensor, spread, xyxy
from support.operator_calls import PSRoIAlignCall, PSRoIPoolCall

SIZE = (3, 2)
FEATURES = random_tensor(2, 12, 7, 9, seed=1)
FINITE = {name: boxes for name, boxes in BOX_SETS.items() if name != "not_finite"}


@pytest.mark.parametrize("ratio", [-1, 0, 1, 2, 3])
def test_align_is_roi_align_of_every_group(ratio: int) -> None:
    """``roi_align`` pools all channels, of which every bin keeps its own; boxes may be reversed or empty."""
    boxes = spread(torch.cat(list(FINITE.values())), 2)
    out = PSRoIAlignCall(SIZE, 0.8, ratio).forward(FEATURES, boxes)
    params = reference.Params(SIZE, 0.8, ratio, aligned=True)
    plain = torch.from_numpy(reference.average(as_array(FEATURES), as_array(boxes), params))
    own = plain.reshape(len(boxes), 2, 6, 6).diagonal(dim1=2, dim2=3).reshape(len(boxes), 2, *SIZE)
    torch.testing.assert_close(out, own, atol=1e-14, rtol=0)


def test_pool_is_the_mean_of_slices() -> None:
    """Bins of whole pixels: cells 2 to 6 of the rows in two bins, 1 to 7 of the columns in three."""
    features = random_tensor(1, 6, 8, 9, seed=4)
    (out,) = PSRoIPoolCall((2, 3)).forward(features, xyxy((1.4, 1.6, 7.4, 6.4)))
    for p in range(2):
        for q in range(3):
            cells = features[0, 3 * p + q, 2 + 2 * p : 4 + 2 * p, 1 + 2 * q : 3 + 2 * q]
            torch.testing.assert_close(out[0, p, q], cells.mean(), atol=1e-14, rtol=0)


def test_pool_of_the_last_row_and_column() -> None:
    """The last row and column belong to no bin: a box on them gives 0, and one that reaches them ends before them."""
    ramp = torch.arange(20.0).reshape(1, 1, 4, 5).double()
    call = PSRoIPoolCall((1, 1))
    assert call.forward(ramp, xyxy((4.0, 0.0, 5.0, 2.0), (0.0, 3.0, 3.0, 4.0))).flatten().tolist() == [0.0, 0.0]
    assert call.forward(ramp, xyxy((3.0, 2.0, 9.0, 9.0))).item() == 13.0
    assert not bool(call.grad_input(torch.ones(1, 1, 1, 1), ramp, xyxy((-9.0, -9.0, 9.0, 9.0)))[..., -1].any())


def test_every_bin_has_its_channel() -> None:
    """A map of one number per channel shows which of them a bin reads."""
    features = torch.arange(12.0).reshape(1, 12, 1, 1).expand(1, 12, 7, 9)
    for call in (PSRoIAlignCall(SIZE), PSRoIPoolCall(SIZE)):
        out = call.forward(features, xyxy((1.0, 1.0, 6.0, 5.0)))
        assert torch.equal(out.flatten(), torch.arange(12.0).double())
        assert replace(call, output_size=(2, 6)).forward(features, xyxy((1.0, 1.0, 6.0, 5.0))).shape == (
            1,
            1,
            2,
            6,
        )
