"""RoI pooling operators of object detection for PyTorch, written by hand for the CPU and for CUDA."""

# With the package's name in the errors, `python -m roialign_ext` prints their one sentence without a traceback.
from ._environment import load_failure, load_libraries, outdated_torch

if (_outdated := outdated_torch()) is not None:
    raise ImportError(_outdated, name=__name__)
try:
    load_libraries()
    from . import _C
except (ImportError, OSError) as error:
    raise ImportError(load_failure(error), name=__name__) from None

from . import _registration as _registration
from . import autograd as autograd
from ._onnx_registration import register as _register_for_onnx
from .autograd import RoIAlignFunction
from .boxes import BoxShapeError
from .functional import (
    crop_and_resize,
    multiscale_roi_align,
    multiscale_roi_align_rotated,
    prroi_pool,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_rotated,
    roi_pool,
    roi_warp,
)
from .modules import (
    CropAndResize,
    MultiScaleRoIAlign,
    MultiScaleRoIAlignRotated,
    PrRoIPool,
    PSRoIAlign,
    PSRoIPool,
    RoIAlign,
    RoIAlignRotated,
    RoIPool,
    RoIWarp,
)
from .replace import LayerReplacement, replace_roi_layers, restore_roi_layers

_register_for_onnx()

#: The version, by the rules of semantic versioning.
__version__ = "0.2.0"
__all__ = [
    "BoxShapeError",
    "CropAndResize",
    "LayerReplacement",
    "MultiScaleRoIAlign",
    "MultiScaleRoIAlignRotated",
    "PSRoIAlign",
    "PSRoIPool",
    "PrRoIPool",
    "RoIAlign",
    "RoIAlignFunction",
    "RoIAlignRotated",
    "RoIPool",
    "RoIWarp",
    "__version__",
    "cpu_capability",
    "crop_and_resize",
    "multiscale_roi_align",
    "multiscale_roi_align_rotated",
    "prroi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "replace_roi_layers",
    "restore_roi_layers",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "roi_warp",
]


def cpu_capability() -> str:
    """The instruction set that the kernels use: ``"DEFAULT"``, ``"AVX2"`` or ``"AVX512"``.

    It is the widest that the processor has, or a narrower one if the environment variable ``ATEN_CPU_CAPABILITY``
    (``default``, ``avx2``, ``avx512``) named it before the first call.
    """
    return str(_C.cpu_capability())
