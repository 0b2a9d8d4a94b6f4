"""The public operators as modules."""

from typing import Union

from torch import Tensor, nn

from ._typing import BroadcastingList2
from .functional import roi_align


class RoIAlign(nn.Module):
    """:func:`roialign_ext.roi_align` as a layer; arguments as there."""

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode

    # The annotations are in the form that TorchScript reads.
    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, mode={self.mode!r}"
        )
