"""Types of the arguments of public functions and layers.

The operators' schemas would refuse the same arguments with messages that name no argument. One function, `check_call`,
checks the usual arguments, because every call pays for it. The operators check values and sizes, also for callers
without these functions (roialign_ext/_operator_checks.py).
"""

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._environment import REBUILD

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
MAX_INT = torch.iinfo(torch.int64).max  # of the operators' schemas
MAX_LEVELS = 8  # of a feature pyramid
HAS_CUDA = torch._C._dispatch_has_kernel_for_dispatch_key("roialign_ext::_pool", "CUDA")


def as_integer(name: str, value: Any, expected: str = "an int") -> Any:
    """An int, from an integer of Python or numpy, a tensor of one integer, or a symbolic size. A bool raises."""
    if isinstance(value, torch.SymInt):
        return value
    if type(value) is not int:
        if _is_bool(value):
            raise TypeError(f"{name}: expected {expected}, got {value!r}")
        try:
            value = operator.index(value)
        except (TypeError, ValueError, RuntimeError) as error:  # for a tensor that does not hold one integer
            raise TypeError(f"{name}: expected {expected}, got {value!r}") from error
    if not -MAX_INT <= value <= MAX_INT:
        raise ValueError(f"{name}: expected {expected} of at most 64 bits, got {value!r}")
    return value


def as_number(name: str, value: Any) -> Any:
    """A float, from a number of Python or numpy, a tensor of one number, or a symbolic number. A bool raises."""
    if type(value) is float or isinstance(value, (torch.SymFloat, torch.SymInt)):
        return value
    cause = None
    try:
        if type(value) is int or (hasattr(value, "__float__") and not _is_bool(value) and not _is_several(value)):
            return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # for a tensor that does not hold one number
        cause = error
    raise TypeError(f"{name}: expected a number, got {value!r}") from cause


def as_pair(name: str, value: Any) -> Any:
    """Numbers of bins ``[PH, PW]``; one int stands for both."""
    expected = "an int or a pair of ints"
    if isinstance(value, (list, tuple)):
        return [
            bins if type(bins) is int and 0 < bins <= MAX_INT else as_integer(name, bins, expected) for bins in value
        ]
    number = as_integer(name, value, expected)
    return [number, number]


def as_spatial_scale(value: Any, columns: int = 5) -> Any:
    """The scale of both axes; ``columns`` is the length of a row of boxes."""
    if columns == 5 and isinstance(value, (list, tuple)) and len(value) == 2:
        raise TypeError(
            f"spatial_scale: expected one number for both axes, got {value!r}: for (sy, sx) scale the boxes first, "
            "(x1, y1, x2, y2) * (sx, sy, sx, sy), and leave spatial_scale at 1.0"
        )
    return as_number("spatial_scale", value)


def tensors_of(tensors: Any) -> Any:
    """The tensors that may override ``__torch_function__``: the elements of a list, or the tensor itself."""
    return tensors if isinstance(tensors, (list, tuple)) else (tensors,)


def check_call(
    input: Any,
    boxes: Any,
    output_size: Any,
    spatial_scale: Any = 1.0,
    sampling_ratio: Any = -1,
    aligned: object = False,
    mode: object = "avg",
    columns: int = 5,
) -> tuple[Any, Any, Any, Any]:
    """Checks the arguments that most operators share; ``columns`` is the length of a row of boxes.

    Returns boxes as a tensor or a list, and output_size, spatial_scale and sampling_ratio in the types of the
    operators' schemas.
    """
    if not isinstance(input, Tensor) or not input.is_cpu or input.dim() != 4 or input.dtype not in DTYPES:
        check_map("input", input)
    if not isinstance(boxes, Tensor):
        boxes = _as_box_list(boxes, columns)
    elif boxes.dtype not in DTYPES:
        check_dtype("boxes", boxes)
    if type(output_size) is int and 0 < output_size <= MAX_INT:
        output_size = [output_size, output_size]
    else:
        output_size = as_pair("output_size", output_size)
    if type(spatial_scale) is not float:
        spatial_scale = as_spatial_scale(spatial_scale, columns)
    if type(sampling_ratio) is not int or not -MAX_INT <= sampling_ratio <= MAX_INT:
        sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
    if aligned is not True and aligned is not False:
        check_flag("aligned", aligned)
    if not isinstance(mode, str):
        raise TypeError(f"mode: expected 'avg' or 'max', got {mode!r}")
    return boxes, output_size, spatial_scale, sampling_ratio


def check_map(name: str, features: Any) -> None:
    """A feature map on a device that this build supports."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name}: expected a tensor [N, C, H, W], got {_kind(features)}")
    if features.is_cuda and not HAS_CUDA:
        raise ValueError(
            f"{name}: this build of roialign_ext runs on cpu, without CUDA kernels, got a tensor on {features.device}: "
            f"rebuild it where nvcc is found with `FORCE_CUDA=1 {REBUILD}`, or move the tensor with .cpu()"
        )
    if not (features.is_cpu or features.is_cuda or features.is_meta):
        devices = "cpu and cuda" if HAS_CUDA else "cpu"
        raise ValueError(
            f"{name}: this build of roialign_ext runs on {devices}, got a tensor on {features.device}: "
            "move it there with .cpu()"
        )
    check_dense(name, features)
    if features.dim() != 4:
        raise ValueError(f"{name}: expected a tensor [N, C, H, W], got shape {list(features.shape)}")
    check_dtype(name, features)


def check_dtype(name: str, tensor: Tensor) -> None:
    """A dtype that kernels support."""
    if tensor.dtype not in DTYPES:
        advice = ": use boxes.float()" if name == "boxes" and tensor.dtype in (*INDEX_DTYPES, torch.bool) else ""
        raise TypeError(f"{name}: expected a float16, bfloat16, float32 or float64 tensor, got {tensor.dtype}{advice}")


def check_dense(name: str, tensor: Tensor) -> None:
    """A tensor with strides. This check comes first, because nested tensors have no sizes."""
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "a nested one" if tensor.is_nested else f"one of layout {tensor.layout}"
        raise ValueError(f"{name}: expected a dense tensor, got {layout}")


def check_named_maps(name: str, maps: Any, names: list[str]) -> None:
    """Checks the feature maps of a pyramid that have one of these names."""
    if not isinstance(maps, Mapping):
        raise TypeError(f"{name}: expected a dict of tensors [N, C, H, W] by name, got {_kind(maps)}")
    finest = None
    for key, level_map in maps.items():
        if key not in names:
            continue
        argument = f"{name}[{key!r}]"
        check_map(argument, level_map)
        finest = level_map if finest is None else finest
        if level_map.dtype != finest.dtype:
            raise TypeError(f"{argument}: expected the dtype of the finest map, {finest.dtype}, got {level_map.dtype}")
        # Tracing would record the sizes of its example.
        if not torch.jit.is_tracing() and level_map.shape[:2] != finest.shape[:2]:  # type: ignore
            raise ValueError(
                f"{argument}: expected the images and channels of the finest map, {list(finest.shape[:2])}, got shape "
                f"{list(level_map.shape)}"
            )


def check_levels(features: object, scales: object) -> list[Any]:
    """Checks the types of a pyramid's maps, and returns its scales as numbers. The operator compares their numbers."""
    if not isinstance(features, (list, tuple)):
        raise TypeError(f"features: expected a list of tensors [N, C, H, W], finest level first, got {_kind(features)}")
    if not features:
        raise ValueError(f"features: expected a list of 1 to {MAX_LEVELS} levels, got an empty list")
    for level, level_map in enumerate(features):
        check_map(f"features[{level}]", level_map)
    return as_numbers("scales", scales)


def as_numbers(name: str, values: Any) -> list[Any]:
    """A list of numbers, one per level."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name}: expected a list of numbers, one per level, got {values!r}")
    return [as_number(f"{name}[{level}]", value) for level, value in enumerate(values)]


def check_image_shapes(name: str, shapes: Any) -> None:
    """A list with the height and width of each image."""
    if not isinstance(shapes, (list, tuple)):
        raise TypeError(f"{name}: expected a list of (height, width), one per image, got {_kind(shapes)}")
    for image, shape in enumerate(shapes):
        if not isinstance(shape, (list, tuple)) or len(shape) < 2:
            raise TypeError(f"{name}[{image}]: expected (height, width), got {shape!r}")
        for size in shape[:2]:
            number = size if type(size) is int else as_number(f"{name}[{image}]", size)
            if not 0 <= number < math.inf:
                raise ValueError(f"{name}[{image}]: expected (height, width) in image pixels, got {shape!r}")


def check_crop(boxes: object, box_indices: object, method: object) -> None:
    """The arguments of crop_and_resize alone, except numbers."""
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes: expected a Tensor[K, 4] of rows (y1, x1, y2, x2), got {_kind(boxes)}")
    if not isinstance(box_indices, Tensor):
        raise TypeError(f"box_indices: expected a Tensor[K] of integers, got {_kind(box_indices)}")
    check_dense("box_indices", box_indices)
    if box_indices.dtype not in INDEX_DTYPES:
        raise TypeError(f"box_indices: expected a tensor of integers, got {box_indices.dtype}")
    check_text("method", method, "'bilinear' or 'nearest'")


def check_flag(name: str, value: object) -> None:
    """A bool; other truthy values raise."""
    if not isinstance(value, (bool, torch.SymBool)):
        raise TypeError(f"{name}: expected a bool, got {value!r}")


def check_text(name: str, value: object, expected: str) -> None:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")


def as_layer_size(name: str, value: Any) -> Any:
    """A size as a layer stores it: an int or a tuple of two ints."""
    pair = as_pair(name, value)
    if len(pair) != 2 or not all(bins > 0 for bins in pair):
        raise ValueError(f"{name}: expected a positive int or two of them (height, width), got {value!r}")
    return tuple(pair) if isinstance(value, (list, tuple)) else pair[0]


def as_layer_scale(name: str, value: Any) -> Any:
    """A scale as a layer stores it. Only a call knows the type of the coordinates, so it checks the range again."""
    scale = as_number(name, value)
    if not 0 < scale < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return scale


def as_layer_spatial_scale(value: Any, columns: int = 5) -> Any:
    """The scale of both axes as a layer stores it."""
    return as_layer_scale("spatial_scale", as_spatial_scale(value, columns))


def as_layer_scales(name: str, values: Any) -> list[Any]:
    """Scales of the levels as a layer stores them."""
    scales = [as_layer_scale(f"{name}[{level}]", scale) for level, scale in enumerate(as_numbers(name, values))]
    if not scales or scales != sorted(scales, reverse=True):
        raise ValueError(
            f"{name}: expected 1 / stride of each level, from the finest level to the coarsest, none larger than the "
            f"one before, got {values!r}"
        )
    return scales


def as_finite_number(name: str, value: Any) -> Any:
    """A number other than NaN and infinity."""
    number = as_number(name, value)
    if not -math.inf < number < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return number


def check_word(name: str, value: object, words: tuple[str, str]) -> None:
    """One of two words."""
    expected = f"{words[0]!r} or {words[1]!r}"
    check_text(name, value, expected)
    if value not in words:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def as_names(name: str, value: Any) -> list[str]:
    """A list of names. A single string is refused, because its letters would count as names."""
    message = f"{name}: expected a list of names, got {value!r}"
    if isinstance(value, (str, Tensor)):
        raise TypeError(message)
    try:
        names = list(value)
    except TypeError as error:
        raise TypeError(message) from error
    if not all(isinstance(element, str) for element in names):
        raise TypeError(message)
    if not names:
        raise ValueError(f"{name}: expected the name of one map at least, got {value!r}")
    return names


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _is_several(value: Any) -> bool:
    """True unless the tensor holds one number; for numpy, unless it has no dimensions."""
    return value.numel() != 1 if isinstance(value, Tensor) else getattr(value, "ndim", 0) != 0


def _kind(value: object) -> str:
    """Describes a value that was passed in place of a tensor or a list of tensors."""
    name = type(value).__name__
    if isinstance(value, (list, tuple)):
        if not value:
            return f"an empty {name}"
        other = next((type(element).__name__ for element in value if not isinstance(element, Tensor)), "Tensor")
        return f"a {name} of {other}"
    return name


def _as_box_list(boxes: object, columns: int) -> list[Tensor]:
    if not (isinstance(boxes, (list, tuple)) and all(isinstance(image_boxes, Tensor) for image_boxes in boxes)):
        raise TypeError(
            f"boxes: expected a Tensor[K, {columns}] or a list of Tensor[L, {columns - 1}], got {_kind(boxes)}"
        )
    for image_boxes in boxes:
        check_dense("boxes", image_boxes)
    return list(boxes)
