"""RoIAlign as a function of torch.autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._form import Form, Settings, layout_of, ops
from ._typing import BroadcastingList2
from .functional import roi_align


def _refuse_list(boxes: object) -> None:
    if isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes: expected a Tensor[K, 5], got a {type(boxes).__name__}, which roi_align takes")


class RoIAlignFunction(torch.autograd.Function):
    """RoIAlign as an autograd function, for code that calls ``apply``; :func:`roialign_ext.roi_align` is the same.

    Subclasses are refused, because methods that they override would not be called.

    Raises:
        TypeError: on making a subclass.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError(
            f"{cls.__name__}: expected no subclass of RoIAlignFunction, whose apply() calls roi_align and no method of "
            "the class: call roialign_ext.roi_align in a torch.autograd.Function of your own"
        )

    @classmethod
    def apply(
        cls,
        input: Tensor,
        boxes: Tensor,
        output_size: BroadcastingList2[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
        /,
    ) -> Tensor:
        """Pools ``boxes`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)`` in image pixels, in any of these dtypes.
            output_size: bins ``(PH, PW)`` per box, or one int for both.
            spatial_scale: map pixels per image pixel.
            sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
                rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
            aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
                ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
            mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
                samples of a bin may lie on the map along one axis.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``boxes``.

        Raises:
            BoxShapeError: ``boxes`` has the wrong shape.
            ValueError: another argument has a shape or a value not allowed above.
            TypeError: an argument has a type or dtype not allowed above, such as boxes in a list.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        # The operator is differentiable by itself, in forward mode too, and its call costs a quarter of what binding
        # the arguments of forward() would. Dynamo looks past this method and traces forward() and backward().
        _refuse_list(boxes)
        return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode)

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
    ) -> Tensor:
        _refuse_list(boxes)
        rule = "roi_align_half_pixel" if aligned else "roi_align_legacy"
        ctx.geometry = ([spatial_scale], None, sampling_ratio, rule)
        ctx.is_max = mode == "max"
        ctx.input_size, ctx.channels_last = layout_of([input])
        ctx.save_for_backward(input if ctx.is_max or ctx.needs_input_grad[1] else None, boxes)
        return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, boxes = ctx.saved_tensors
        # Only the value is an output of forward(), so a traced backward finds the argmax anew.
        argmax = ops._max_pool([input], boxes, grad.shape[2:], *ctx.geometry)[1] if ctx.is_max else None
        settings = Settings("_pool", ctx.geometry, grad.shape[2:], ctx.input_size, ctx.channels_last)
        form = Form(settings, [input], grad, boxes, (None, None), argmax)
        grad_input = form.grad_input()[0] if ctx.needs_input_grad[0] else None
        grad_boxes = form.grad_boxes() if ctx.needs_input_grad[1] else None
        return grad_input, grad_boxes, None, None, None, None, None
