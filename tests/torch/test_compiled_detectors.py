"""Do compiled detectors of torchvision have no graph break in a layer, and one graph for any number of boxes?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.testing import assert_close

import roialign_ext
from roialign_ext import functional, replace_roi_layers
from support.detectors import detector

PACKAGE = Path(roialign_ext.__file__).parent
# torchvision's rules for torch.compile call what torch has deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "fresh_dynamo"),
    pytest.mark.filterwarnings("ignore:.*create_unbacked_symint:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # dynamo looks at it
]


def small(torchvision: ModuleType, name: str = "MaskRCNN") -> nn.Module:
    """A detector with the layers of this package, whose number of proposals depends on the image."""
    model = detector(torchvision, name).eval()
    assert len(replace_roi_layers(model)) == (2 if name == "MaskRCNN" else 1)
    # Its thresholds let as many through as there may be; suppression of overlapping ones then decides.
    model.rpn._pre_nms_top_n["testing"] = 20
    return model


def image(seed: int) -> list[Tensor]:
    return [torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)]


def calls(graph: fx.GraphModule) -> int:
    """How often a graph calls this package."""
    return sum("roialign_ext" in str(node.target) for node in graph.graph.nodes)


def breaks_of_this_package(model: nn.Module) -> list[str]:
    """Why graphs end inside this package; the graphs that there are have to call it."""
    explanation = torch._dynamo.explain(model)(image(0))
    assert sum(map(calls, explanation.graphs)) > 0
    return [
        reason.reason
        for reason in explanation.break_reasons
        if any(Path(frame.filename).is_relative_to(PACKAGE) for frame in reason.user_stack)
    ]


def test_no_graph_ends_in_a_layer(torchvision: ModuleType) -> None:
    assert breaks_of_this_package(small(torchvision)) == []


def test_a_graph_that_ended_in_a_layer_would_be_noticed(
    torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = functional.check_levels

    def with_a_break(*arguments: Any, **options: Any) -> Any:
        torch._dynamo.graph_break()
        return check(*arguments, **options)

    monkeypatch.setattr(functional, "check_levels", with_a_break)
    assert breaks_of_this_package(small(torchvision, "FasterRCNN")) != []


def test_the_number_of_boxes_compiles_nothing_again(torchvision: ModuleType) -> None:
    model = small(torchvision)
    counts: list[int] = []
    graphs: list[int] = []  # calls of this package in each graph that is compiled

    def backend(graph: fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        graphs.append(calls(graph))
        return graph.forward

    images = [image(seed) for seed in (0, 3, 4, 5, 6, 7)]
    hook = model.roi_heads.box_roi_pool.register_forward_pre_hook(
        lambda layer, arguments: counts.append(sum(map(len, arguments[1])))
    )
    with torch.no_grad():
        expected = [model(image) for image in images]
    hook.remove()
    assert len(set(counts)) == len(counts), "the images should have different numbers of boxes"

    compiled = torch.compile(model, backend=backend)
    compilations = []
    with torch.no_grad():
        for picture, detections in zip(images, expected, strict=True):
            assert_close(compiled(picture), detections)
            compilations.append(sum(count > 0 for count in graphs))
    assert compilations[0] > 0
    # The second number of boxes makes the size dynamic; after that nothing is compiled.
    assert compilations[2:] == [compilations[1]] * (len(images) - 2)
