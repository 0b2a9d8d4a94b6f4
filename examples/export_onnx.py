"""Exports a layer and a whole detector to ONNX, runs them in ONNX Runtime, and compares the numbers.

pip install "roialign_ext[onnx]" onnxruntime
python examples/export_onnx.py            # seconds; writes outputs/roi_align.onnx and outputs/detector.onnx
"""
# mypy: allow-untyped-calls

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from coins_data import load_scenes
from coins_model import build_model
from roialign_ext import RoIAlign


def run_onnx(path: Path, **inputs: Tensor) -> list[Tensor]:
    """The results of a saved model in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(output) for output in outputs]


def random_boxes(count: int) -> Tensor:
    """Rows (image, x1, y1, x2, y2) for one image of 256 x 256 pixels."""
    corners = torch.rand(count, 4) * 120
    corners[:, 2:] += corners[:, :2] + 8
    return torch.cat([torch.zeros(count, 1), corners], dim=1)


def export_layer(path: Path) -> None:
    """One layer, with any number of boxes, through torch.export: the newer exporter."""
    layer = RoIAlign(7, spatial_scale=1 / 4, sampling_ratio=2, aligned=True).eval()
    torch.onnx.export(
        layer,
        (torch.rand(1, 16, 64, 64), random_boxes(5)),
        path,
        dynamo=True,
        verbose=False,
        external_data=False,  # the weights, if there were any, in the same file
        input_names=["features", "boxes"],
        dynamic_shapes=({}, {0: "number_of_boxes"}),
    )
    for count in (1, 40):  # not the number of the export
        features, boxes = torch.rand(1, 16, 64, 64), random_boxes(count)
        (result,) = run_onnx(path, features=features, boxes=boxes)
        difference = (result - layer(features, boxes)).abs().max()
        print(f"layer, {count} boxes: largest difference {difference:.1e}")


def export_detector(path: Path, parameters: Path | None) -> None:
    """The detector of the coins, for images of any size; the older exporter, as the image decides how many boxes."""
    torch.manual_seed(0)
    model = build_model("roialign_ext").eval()
    if parameters is not None:
        model.load_state_dict(torch.load(parameters))
    held_out = load_scenes(None, None)[1].image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this exporter deprecated, and warns of sizes that a trace fixes
        torch.onnx.export(
            model,
            ([held_out],),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["boxes", "labels", "scores", "masks"],
            dynamic_axes={"image": {1: "height", 2: "width"}},
        )
    for image in (held_out, held_out[:, :120, :200]):  # the size of the export, and another
        boxes, labels, scores, masks = run_onnx(path, image=image)
        with torch.no_grad():
            expected = model([image])[0]
        assert torch.equal(labels, expected["labels"]), "the detections differ"
        print(f"detector, image of {image.shape[2]} x {image.shape[1]}: {len(boxes)} detections, largest differences")
        for name, found, unit in (("boxes", boxes, " pixels"), ("scores", scores, ""), ("masks", masks, "")):
            print(f"    {name} {(found - expected[name]).abs().max():.1e}{unit}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parameters", type=Path, help="of train_coins_distributed.py; left out: an untrained detector"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the models")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    layer, detector = chosen.outputs / "roi_align.onnx", chosen.outputs / "detector.onnx"
    export_layer(layer)
    export_detector(detector, chosen.parameters)
    for path in (layer, detector):
        print(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
