"""Segments an image with an exported ONNX file, on a device that has no PyTorch.

    python -m search.export studies/qkd-shapes --max-size 300KB --format onnx-int8 --out exported
    python examples/segment_with_onnx.py exported/MODEL.onnx IMAGE MASK.png

It needs NumPy, Pillow and ONNX Runtime 1.31 or newer, and nothing of this project: the model card
beside the model says how images are prepared and what the classes are called.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main(model: Path, image_file: Path, mask_file: Path) -> None:
    card = json.loads(model.with_name(f"{model.name}.json").read_text())
    prepare = card["preprocessing"]
    image = Image.open(image_file).convert("RGB")
    factor = prepare["longest_side"] / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    small_HW3 = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    normalized_HW3 = (small_HW3 / 255 - prepare["mean"]) / prepare["std"]
    images_B3HW = normalized_HW3.astype(np.float32).transpose(2, 0, 1)[None]

    options = onnxruntime.SessionOptions()
    # Without this, sums of 8-bit products overflow on x86 processors that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits_BKHW,) = session.run(["logits"], {"images": images_B3HW})

    planes = [
        np.asarray(Image.fromarray(plane_HW).resize(image.size, Image.Resampling.BILINEAR))
        for plane_HW in logits_BKHW[0]
    ]
    classes_HW = np.argmax(planes, axis=0).astype(np.uint8)
    Image.fromarray(classes_HW).save(mask_file)
    shares = np.bincount(classes_HW.ravel(), minlength=len(card["classes"])) / classes_HW.size
    for name, share in zip(card["classes"], shares, strict=True):
        print(f"{name}: {share:.1%} of the pixels")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
