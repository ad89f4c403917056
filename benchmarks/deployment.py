"""Exported students: bytes, mIoU and latency of every format, and of PyTorch's int8 quantization.

    python -m benchmarks.deployment --data FOLDER --out deployment.md

One full-precision student is trained; the quantized ones start from it. Latencies are medians
of one image on one core, taken in turns.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from benchmarks.timing import describe_machine, markdown, median_seconds
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.augmentation import normalize
from trainables.data.loader import Loader
from trainables.data.packed import PackedDataset, images_of, open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.deploy.latency import untrained
from trainables.deploy.onnx_export import to_onnx
from trainables.deploy.onnx_graph import OnnxForm
from trainables.deploy.parity import Parity, check_parity
from trainables.deploy.runtime import CPU, module_network, open_session, session_network
from trainables.models.configs import UNetConfig
from trainables.models.model_file import NETWORK_FILE, ModelSpec, deserialize, read_model
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Qat, Supervised
from trainables.training.defaults import FLIP_ONLY
from trainables.training.trial import Trial, train_or_find

CPU_DEVICE = torch.device("cpu")
BITS = ((8, 8), (4, 8), (4, 4), (3, 4), (2, 4))
FORMS: tuple[OnnxForm, ...] = ("onnx", "onnx-int8")
START = Supervised(optimizer=AdamW(learning_rate=4e-3))
FINE, FINE_EPOCHS = AdamW(learning_rate=1e-3), 6
NUM_CALIBRATED = 32
WIDTHS = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="gets the tables, as Markdown")
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = ArtifactStore(arguments.artifacts)
    source = open_source(str(arguments.data), arguments.image_size, store.root)
    run = ExecutionConfig(data=pack_dataset(source, store).path, artifacts=store.root)
    student = UNetConfig(width=arguments.width)
    machine = f"{describe_machine(CPU_DEVICE)}, {', '.join(integer_instructions())}"
    tables = [
        f"{machine}. One core, one image.\n",
        forms_table(run, student, arguments.epochs),
        width_table(run),
    ]
    arguments.out.write_text("\n".join(tables))
    print("\n".join(tables))


def integer_instructions() -> list[str]:
    """The processor's instructions for products of 8-bit integers."""
    known = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm")
    able = torch.cpu.get_capabilities()
    return [name for name in known if able.get(name)]


def forms_table(run: ExecutionConfig, student: UNetConfig, num_epochs: int) -> str:
    """One student at several bits: bytes, mIoU and latency of each form."""
    data = open_pack(run.data)
    base = TrialConfig(student=student, recipe=START, augmentation=FLIP_ONLY, num_epochs=num_epochs)
    start = train_or_find(base, run).path
    files = {"full precision": (start / "model.safetensors").read_bytes()}
    for weight_bits, activation_bits in BITS:
        bits = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
        recipe = Qat(start=START, start_epochs=num_epochs, optimizer=FINE, quantizer=bits)
        trial = Trial(base.replace(recipe=recipe, num_epochs=FINE_EPOCHS), run)
        list(trial)
        assert trial.model_bytes is not None
        files[f"W{weight_bits}A{activation_bits}"] = trial.model_bytes
    models = {name: deserialize(content) for name, content in files.items()}
    exported = {
        (name, form): bytes(to_onnx(model, data.num_classes, form, {}).SerializeToString())
        for name, model in models.items()
        for form in FORMS
    }
    own = pytorch_int8(read_model(start / NETWORK_FILE), data)
    networks = {
        key: session_network(open_session(content, CPU, 1)) for key, content in exported.items()
    }
    image = np.zeros((1, 3, data.height, data.width), np.float32)
    things: dict[str, Callable[[], object]] = {
        f"{name} {form}": partial(network, image) for (name, form), network in networks.items()
    }
    things["PyTorch int8"] = partial(module_network(own), image)
    things["PyTorch float32"] = partial(module_network(models["full precision"]), image)
    seconds = median_seconds(things, CPU_DEVICE, 31)
    unit = seconds["full precision onnx"]
    rows: list[list[object]] = []
    for name, content in files.items():
        reference = module_network(models[name])
        results = [check_parity(networks[name, form], reference, data) for form in FORMS]
        rows.append(
            [
                name,
                f"{sum_of_bits(models[name]) / 8:,.0f}",
                f"{len(content):,}",
                *(f"{len(exported[name, form]):,}" for form in FORMS),
                *(
                    f"{100 * result.miou:.2f}"
                    for result in (check_parity(reference, reference, data), *results)
                ),
                *(changed(result) for result in results),
                *(f"{seconds[f'{name} {form}'] / unit:.2f}" for form in FORMS),
            ]
        )
    route = check_parity(module_network(own), module_network(own), data).miou
    plain, integers = seconds["PyTorch float32"] / unit, seconds["PyTorch int8"] / unit
    return (
        f"### U-Net of width {student.width} at {data.height}x{data.width} pixels\n\n"
        f"FP32 ONNX takes {1e3 * unit:.2f} ms, which the last columns are relative to. PyTorch "
        f"runs the float32 network in {plain:.2f} of that, and the int8 one of its own route (FX "
        f"graph mode, calibrated on as many images) in {integers:.2f}, at {100 * route:.2f} mIoU "
        f"and {saved_bytes(own):,} bytes.\n\n"
        + markdown(
            [
                "student",
                "sum of bits / 8",
                "packed file",
                "onnx",
                "onnx-int8",
                "mIoU packed",
                "mIoU onnx",
                "mIoU int8",
                "changed by onnx",
                "changed by int8",
                "latency onnx",
                "latency int8",
            ],
            rows,
        )
    )


def width_table(run: ExecutionConfig) -> str:
    """How the gain of integers grows with the width; weights are random."""
    data = open_pack(run.data)
    image = np.zeros((1, 3, data.height, data.width), np.float32)
    things: dict[str, Callable[[], object]] = {}
    for width in WIDTHS:
        for name, quantizer in (
            ("float", None),
            ("W8A8", Lsq(weight_bits=8, activation_bits=8)),
            ("W4A4", Lsq()),
        ):
            student = UNetConfig(width=width)
            card = ModelSpec(model=student, num_classes=data.num_classes, quantizer=quantizer)
            model = to_onnx(untrained(card), card.num_classes, "onnx-int8", {})
            things[f"{width} {name}"] = partial(
                session_network(open_session(model.SerializeToString(), CPU, 1)), image
            )
    seconds = median_seconds(things, CPU_DEVICE, 31)
    rows: list[list[object]] = [
        [
            width,
            f"{1e3 * seconds[f'{width} float']:.2f}",
            *(
                f"{seconds[f'{width} {n}'] / seconds[f'{width} float']:.2f}"
                for n in ("W8A8", "W4A4")
            ),
        ]
        for width in WIDTHS
    ]
    return "### Integers against floats, by width\n\n" + markdown(
        ["width", "FP32 ONNX, ms", "onnx-int8 W8A8 / FP32", "onnx-int8 W4A4 / FP32"], rows
    )


def sum_of_bits(model: nn.Module) -> int:
    """Bits of all weights, and 32 for each step and bias."""
    layers = [module for module in model.modules() if isinstance(module, ConvertedLayer)]
    if not layers:
        return sum(32 * parameter.numel() for parameter in model.parameters())
    total = 0
    for layer in layers:
        assert layer.codes is not None
        assert layer.step is not None
        assert layer.bits is not None
        biases = 0 if layer.layer.bias is None else layer.layer.bias.numel()
        total += layer.bits * layer.codes.numel() + 32 * (layer.step.numel() + biases + 1)
    return total


def changed(result: Parity) -> str:
    return f"{result.changed_pixels / result.num_pixels:.3%}"


def pytorch_int8(network: nn.Module, data: PackedDataset) -> nn.Module:
    """PyTorch's own post-training static quantization, with its defaults for x86.

    Transposed convolutions stay in float32: with them in int8 it has 9 mIoU (torch 2.15).
    """
    torch.backends.quantized.engine = "x86"
    batches = Loader(data.train, CPU_DEVICE).in_order(8)
    images = [normalize(images_of(next(batches))) for _ in range(NUM_CALIBRATED // 8)]
    mapping = get_default_qconfig_mapping("x86").set_object_type(nn.ConvTranspose2d, None)
    prepared = prepare_fx(network.eval(), mapping, (images[0],))
    with torch.inference_mode():
        for batch in images:
            prepared(batch)
    converted: nn.Module = convert_fx(prepared)
    return converted


def saved_bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


if __name__ == "__main__":
    main()
