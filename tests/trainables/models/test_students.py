"""The contract that every student family keeps."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from compact_networks import compacted
from onnx_operators import count_float_layers
from student_families import STUDENTS, every_student, marks_of, parametrized
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import TrialConfig
from trainables.core import optional_dependencies
from trainables.data.augmentation import normalize
from trainables.deploy.onnx_export import find_float_operations, to_onnx
from trainables.deploy.onnx_graph import OnnxForm
from trainables.deploy.runtime import CPU, open_session, session_network
from trainables.models.backbones import Backbone
from trainables.models.base import StudentNetwork, forward_features
from trainables.models.configs import (
    TORCHVISION_NAMES,
    BackboneUNetConfig,
    EncoderDecoderConfig,
    NetworkConfig,
    StudentConfig,
    TorchvisionConfig,
    UNetConfig,
)
from trainables.models.model_file import CONVERTED, ModelSpec, deserialize, serialize
from trainables.models.outline import build_outline
from trainables.quantization.activation_memory import find_stored_tensors
from trainables.quantization.additions import named_additions
from trainables.quantization.bits import LayerBits
from trainables.quantization.convert import (
    ConvertedAddition,
    ConvertedLayer,
    convert,
)
from trainables.quantization.graph import find_foldable, find_input_groups, trace
from trainables.quantization.integer_bias import round_biases
from trainables.quantization.layers import QuantizedAddition, QuantizedLayer
from trainables.quantization.prepare import calibrate, find_layer_roles, prepare, quantizable_names
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.quantization.quantizers.lsq import StepQuantizer
from trainables.quantization.shapes import Shapes, name_operations, options_of
from trainables.quantization.static_quantizer import StaticQuantizer
from trainables.recipes.configs import AdamW, Ptq, Supervised
from trainables.recipes.optimization import OptimizerLoop
from trainables.training.cost import (
    activations_of,
    count_macs,
    count_params,
    meta_network,
    model_spec,
    predict_ram_bytes,
    predict_size_bytes,
)
from trainables.training.setup import gives_decoder_features

WITH_BACKBONE = [student for student in STUDENTS if isinstance(student, EncoderDecoderConfig)]
NUM_CLASSES = 5
IMAGES = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
WITH_ADDITIONS = ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnet_lite0", "traced")
"""Backbones with residual blocks."""
PREPARED = (QuantizedLayer, QuantizedAddition)
BITS = Lsq(weight_bits=3, activation_bits=4)


every_backbone = parametrized(WITH_BACKBONE)


def built(student: StudentConfig) -> StudentNetwork:
    """An untrained network with the statistics of some images.

    Its normalisations have biases with which most values pass a ReLU. Without them the difference
    of a single rounding grows from layer to layer, until many pixels change their classes.
    """
    torch.manual_seed(0)
    network = student.build(NUM_CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over batches
            nn.init.ones_(module.bias)
    network(torch.randn(4, 3, 48, 48))
    return network


def find_kind(student: StudentConfig) -> str:
    """The backbone of a student, or its name."""
    return student.name.partition("_")[2] or student.name


def quantized(student: StudentConfig, bits: Lsq = BITS) -> nn.Module:
    network = prepare(built(student), bits)
    calibrate(network, torch.randn(2, 3, 32, 32))
    return network


def test_families_are_found() -> None:
    names = {student.name for student in STUDENTS}
    assert {"unet", "unet_mobilenet_v2", "deeplabv3_resnet18", "lraspp_mobilenet_v3_small"} <= names


@every_student
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (50, 36)], ids=str)
def test_logits_have_the_size_of_the_images(student: StudentConfig, size: tuple[int, int]) -> None:
    network = student.build(NUM_CLASSES).eval()
    with torch.no_grad():
        outputs = forward_features(network, torch.randn(2, 3, *size))
    assert outputs.logits.shape == (2, NUM_CLASSES, *size)
    assert outputs.features.shape[0] == 2
    assert outputs.logits.isfinite().all()


@every_student
def test_its_groups_name_its_layers(student: StudentConfig) -> None:
    network = student.build(NUM_CLASSES)
    layers = set(quantizable_names(network))
    assert {layer for group in find_input_groups(network) for layer in group} <= layers
    assert {network.group_of(layer) for layer in layers} <= {"encoder", "decoder", None}
    for parts in network.layer_groups.values():
        assert all(network.get_submodule(part) for part in parts)


def mixed_bits(student: StudentConfig) -> Lsq:
    """Bits that differ between layers, some of them full precision, also within input groups."""
    names = quantizable_names(student.build(NUM_CLASSES))
    widths = (2, 3, 5, 8, 32)
    layers = {
        name: LayerBits(weight_bits=widths[i % 5], activation_bits=widths[i % 3])
        for i, name in enumerate(names)
    }
    return Lsq(layers=layers)


@pytest.mark.parametrize(
    ("student", "bits"),
    [
        *((STUDENTS[0], bits) for bits in ((2, 2), (5, 3), (8, 32), (32, 4), (32, 32))),
        *(
            pytest.param(student, bits, marks=marks_of(student))
            for student in STUDENTS
            for bits in ("mixed", None)
        ),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_length_of_its_file_is_known_before_it_is_built(
    student: StudentConfig, bits: tuple[int, int] | str | None
) -> None:
    quantizer = mixed_bits(student) if bits == "mixed" else None
    if isinstance(bits, tuple):
        quantizer = Lsq(weight_bits=bits[0], activation_bits=bits[1])
    recipe = Ptq(start=Supervised(), quantizer=quantizer) if quantizer else Supervised()
    config = TrialConfig(student=student, recipe=recipe, num_epochs=1)
    spec = model_spec(config, NUM_CLASSES)
    assert predict_size_bytes(config, NUM_CLASSES) == len(serialize(spec.build(), spec))


@every_student
def test_a_grid_is_unsigned_where_none_of_its_readers_reads_a_negative_value(
    student: StudentConfig,
) -> None:
    torch.manual_seed(0)
    network = prepare(student.build(NUM_CLASSES), Lsq()).eval()
    calibrate(network, IMAGES)
    least: dict[FakeQuantizer, float] = {}

    def see(reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(reader, QuantizedLayer | QuantizedAddition)
        grid = reader.input_quantizer
        assert grid is not None
        least[grid] = min([*(float(each.min()) for each in inputs), least.get(grid, 0.0)])

    for module in network.modules():
        if isinstance(module, QuantizedLayer | QuantizedAddition):
            module.register_forward_pre_hook(see)
    with torch.no_grad():
        network(IMAGES)
    assert len(set(least.values())) > 1
    assert all((grid.zero_point == 0) == (value >= 0) for grid, value in least.items())


@every_student
def test_its_graph_covers_every_layer(student: StudentConfig) -> None:
    network = student.build(NUM_CLASSES)
    called = {node.target for node in trace(network).nodes if node.op == "call_module"}
    norms = {name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert called >= {*quantizable_names(network), *norms}
    assert {norm for _, norm in find_foldable(network)} == norms


@every_backbone
def test_layers_of_backbone_and_decoder_are_grouped(student: EncoderDecoderConfig) -> None:
    network = student.build(NUM_CLASSES)
    names = quantizable_names(network)
    groups = [str(network.group_of(name)) for name in names]
    assert groups == sorted(groups, reverse=True)  # the encoder's come first
    assert set(groups) == {"encoder", "decoder"}


@every_student
def test_folding_changes_nothing(student: StudentConfig) -> None:
    network, images = built(student).eval(), torch.randn(2, 3, 37, 50)
    with torch.no_grad():
        expected, found = network(images), convert(network)(images)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


CHANGES: dict[str, object] = {
    "multiplier": 0.5,
    "channels": 24,
    "input_normalization": "symmetric",
}
"""Another value of each field of a student with a backbone."""


@every_backbone
def test_every_field_changes_the_network(student: EncoderDecoderConfig) -> None:
    changes = CHANGES | ({"encoder_depth": 4} if isinstance(student, BackboneUNetConfig) else {})
    assert {"name", "weights", *changes} == set(type(student).model_fields)
    before = shapes(student)
    for field, value in changes.items():
        if field == "multiplier" and not student.has_multiplier:
            with pytest.raises(ValueError, match=f"multiplier of {student.name} must be 1"):
                student.replace(multiplier=value)
            continue
        assert shapes(student.replace(**{field: value})) != before


def shapes(student: StudentConfig) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in student.build(NUM_CLASSES).state_dict().items()}


@pytest.mark.parametrize("decoder", ["unet", "deeplabv3"])
def test_a_student_has_the_normalization_of_its_backbone(decoder: str) -> None:
    """A backbone that was trained on pixels from -1 to 1 sees them, and its file too."""
    name = f"{decoder}_mobilenet_v1"
    fields = {"name": name, "multiplier": 0.25, "channels": 16, "input_normalization": "symmetric"}
    student = StudentConfig.members()[name].model_validate(fields)
    network = built(student).eval()
    seen: list[Tensor] = []
    network.get_submodule("backbone").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    pixels = torch.randint(256, (1, 3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        logits = network(normalize(pixels))
    torch.testing.assert_close(seen[0], pixels / 127.5 - 1, atol=1e-6, rtol=0)
    card = ModelSpec(model=student, num_classes=NUM_CLASSES)
    with torch.no_grad():
        shipped = deserialize(serialize(network, card))(normalize(pixels))
    torch.testing.assert_close(shipped, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)
    assert predict_size_bytes(
        TrialConfig(student=student, recipe=Supervised()), NUM_CLASSES
    ) == len(serialize(network, card))
    first = prepare(network, BITS).get_submodule("backbone.network.layers.0.0")
    assert isinstance(first, QuantizedLayer)
    assert first.weight_quantizer is not None
    assert first.weight_quantizer.bits == 8  # it is found to be the first


@every_backbone
def test_the_last_feature_map_has_the_stride_that_the_decoder_needs(
    student: EncoderDecoderConfig,
) -> None:
    network = student.build(NUM_CLASSES).eval()
    features = network.native_outputs(torch.randn(1, 3, 64, 96)).features
    stride = 32 if student.decoder == "unet" else 16
    assert features.shape[-2:] == (64 // stride, 96 // stride)


@every_student
def test_the_features_of_the_decoder_have_the_stride_that_is_nearest_to_4(
    student: StudentConfig,
) -> None:
    network = student.build(NUM_CLASSES).eval()
    with torch.no_grad():
        decoder = network.native_outputs(torch.randn(2, 3, 64, 96)).decoder
    stride = {"unet": 4, "deeplabv3": 16}.get(student.name.partition("_")[0])
    assert (
        (decoder is None) == (stride is None) == (not gives_decoder_features(student, NUM_CLASSES))
    )
    if stride is not None:
        assert decoder is not None
        assert decoder.shape[0] == 2
        assert decoder.shape[-2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(("depth", "stride"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 4)])
def test_u_nets_of_any_depth_give_features_of_their_decoder(depth: int, stride: int) -> None:
    decoder = UNetConfig(width=2, depth=depth).build(3).native_outputs(torch.randn(2, 3, 64, 96))[2]
    assert decoder is not None
    assert decoder.shape == (2, 2 * stride, 64 // stride, 96 // stride)


CLASSIFIERS = ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "resnet18"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_dilation_changes_the_stride_alone(name: str) -> None:
    """Every second pixel of the finer map is one of the coarser."""
    torch.manual_seed(0)
    fine, coarse = (Backbone(name, 1, is_dilated=dilated).eval() for dilated in (True, False))
    coarse.load_state_dict(fine.state_dict(), strict=False)
    for module in [*fine.modules(), *coarse.modules()]:
        if isinstance(module, nn.AdaptiveAvgPool2d):  # the mean over an image of another size
            module.register_forward_hook(lambda _, __, outputs: torch.ones_like(outputs))
    fine.stages[-1] = coarse.stages[-1]
    with torch.no_grad():
        (*before, detailed), (*same, plain) = fine(IMAGES), coarse(IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(before, same, strict=True))
    tolerance = 1e-4 * float(plain.abs().max())
    torch.testing.assert_close(detailed[..., ::2, ::2], plain, atol=tolerance, rtol=0)


def test_a_backbone_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_dependencies, "has_timm", lambda: False)
    student = StudentConfig.members()["unet_efficientnet_lite0"]
    with pytest.raises(ValueError, match=r"efficientnet_lite0 needs timm, .*paretoseg\[timm\]"):
        student.model_validate({"name": "unet_efficientnet_lite0"}).build(NUM_CLASSES)


class Wrapped(StudentNetwork):
    """A network inside another, with groups whose names begin alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_groups = {
            "encoder": ("network", "network.back"),
            "decoder": ("network.head", "network.backbone.last"),
        }


def test_the_innermost_module_decides_on_the_group() -> None:
    groups = {
        "network.backbone.0": "encoder",
        "network.backbone.last.conv": "decoder",
        "network.head": "decoder",
        "network.header": "encoder",
        "networks.0": None,
    }
    assert {layer: Wrapped().group_of(layer) for layer in groups} == groups


@every_student
def test_it_is_described_in_a_few_words(student: StudentConfig) -> None:
    assert (student.name.split("_")[0] in student.describe()) != (student.name == "traced")
    assert len(student.describe()) <= 24


@every_student
def test_a_seed_draws_the_same_weights(student: StudentConfig) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(student.build(NUM_CLASSES).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@every_student
def test_costs_are_known_before_training(student: StudentConfig) -> None:
    network = student.build(NUM_CLASSES)
    assert count_params(student, NUM_CLASSES) == sum(p.numel() for p in network.parameters())
    assert count_macs(student, NUM_CLASSES, 64, 64) == pytest.approx(
        4 * count_macs(student, NUM_CLASSES, 32, 32), rel=0.1
    )
    assert quantizable_names(meta_network(student, NUM_CLASSES)) == quantizable_names(network)
    config = TrialConfig(student=student, recipe=Ptq(quantizer=BITS), num_epochs=1)
    card = model_spec(config, NUM_CLASSES)
    assert predict_size_bytes(config, NUM_CLASSES) == len(serialize(quantized(student), card))
    read, read_and_written = values_at_layers(network.eval(), torch.randn(1, 3, 32, 32))
    ram_bytes = predict_ram_bytes(config, NUM_CLASSES, 32, 32)
    floats = predict_ram_bytes(config.replace(recipe=Supervised()), NUM_CLASSES, 32, 32)
    assert 4 * read_and_written <= floats < 8 * read_and_written
    # What a product reads stays in float, beside what layers read of it
    assert read // 2 < ram_bytes <= 1.2 * floats


def values_at_layers(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """The most values that a layer reads, and that a layer reads and writes."""
    read, both = [], []

    def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read.append(inputs[0].numel())
        both.append(inputs[0].numel() + output.numel())

    for name in quantizable_names(network):
        network.get_submodule(name).register_forward_hook(see)
    with torch.no_grad():
        network(images)
    return max(read), max(both)


@every_student
def test_its_outline_has_the_same_layers_and_shapes(student: StudentConfig) -> None:
    outline = build_outline(student, NUM_CLASSES)
    with torch.device("meta"):
        network = student.build(NUM_CLASSES)
    pairs = zip(outline.named_modules(), network.named_modules(), strict=True)
    for (name, copied), (expected, module) in pairs:
        assert (name, type(copied)) == (expected, type(module))
        if type(module).__module__.startswith("torch.nn"):
            assert options_of(copied) == options_of(module)
    assert described(outline) == described(network)
    assert len(outline(torch.empty(2, 3, 64, 64, device="meta"))) == 2


def described(network: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype, str]]:
    state = network.state_dict()
    return {name: (each.shape, each.dtype, each.device.type) for name, each in state.items()}


@every_student
def test_costs_do_not_depend_on_the_networks_before(student: StudentConfig) -> None:
    """Networks that share a graph are told from one another, and others do not share one."""
    others = [
        student.replace(**{field: value})
        for field, values in student.choices().items()
        for value in values
    ]
    for other in [student, *others]:
        with torch.device("meta"):
            network = other.build(NUM_CLASSES).eval()
        modules, graph = dict(network.named_modules()), trace(network)
        operations, additions = name_operations(modules, graph), named_additions(network, graph)
        groups = find_layer_roles(network, graph).input_groups
        shapes = Shapes(modules, operations, (1, 3, 33, 48))
        tensors = find_stored_tensors(modules, operations, shapes.num_values, groups, additions)
        assert activations_of(other, NUM_CLASSES, 33, 48) == (shapes.macs, tensors)
        assert count_params(other, NUM_CLASSES) == sum(p.numel() for p in network.parameters())
    spec = ModelSpec(model=other, num_classes=NUM_CLASSES)
    config = TrialConfig(student=other, recipe=Supervised())
    assert predict_size_bytes(config, NUM_CLASSES) == len(serialize(spec.build(), spec))


@pytest.mark.parametrize(
    "network",
    [
        *(pytest.param(s, marks=marks_of(s)) for s in STUDENTS),
        *(
            pytest.param(TorchvisionConfig(name=name), marks=pytest.mark.slow)
            for name in TORCHVISION_NAMES
        ),
    ],
    ids=lambda network: network.name,
)
@pytest.mark.parametrize("size", [(65, 81)], ids=str)
def test_multiply_accumulates_are_those_that_pytorch_counts(
    network: NetworkConfig, size: tuple[int, int]
) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network.build(NUM_CLASSES).eval()(torch.empty(1, 3, *size))
    assert 2 * count_macs(network, NUM_CLASSES, *size) == counter.get_total_flops()


@every_student
def test_its_export_in_full_precision_gives_the_same_logits(student: StudentConfig) -> None:
    network, images = convert(built(student)), torch.randn(1, 3, 37, 50)
    found = logits_of(to_onnx(network, NUM_CLASSES, "onnx", {}).SerializeToString(), images)
    with torch.no_grad():
        expected = network(images)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def logits_of(content: bytes, images: Tensor) -> Tensor:
    return torch.from_numpy(session_network(open_session(content, CPU, 1))(images.numpy()))


FORMS: Mapping[OnnxForm, float] = {"onnx": 0.001, "onnx-int8": 0.01}
"""The share of pixels whose classes may change. Layers of integers compute the same; what is on
floats, and an addition whose sum is read on another grid, may fall to the other side of a tie."""


@every_student
def test_its_exports_of_8_bits_give_the_same_classes(
    student: StudentConfig, tmp_path: Path
) -> None:
    """And what a model card names stays on floats in the fast form."""
    network = convert(quantized(student, Lsq(weight_bits=8, activation_bits=8)))
    round_biases(network)
    images, contents = torch.randn(1, 3, 37, 50), dict[OnnxForm, bytes]()
    with torch.no_grad():
        expected = network(images).argmax(1)
    for form, most in FORMS.items():
        contents[form] = to_onnx(network, NUM_CLASSES, form, {}).SerializeToString()
        changed = logits_of(contents[form], images).argmax(1) != expected
        assert changed.float().mean() < most
    layers = {name for name, m in network.named_modules() if isinstance(m, ConvertedLayer)}
    on_floats = layers.intersection(find_float_operations(network))
    assert len(on_floats) == count_float_layers(contents["onnx-int8"], tmp_path)


@torch.no_grad()
def integers_of(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each layer and addition reads, as integers, in the order of execution."""
    found: dict[str, Tensor] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        grid = module.input_quantizer if isinstance(module, PREPARED) else module.grid
        found[name] = torch.stack([grid.codes(each) for each in inputs])

    for name, module in network.named_modules():
        if isinstance(module, (*PREPARED, *CONVERTED)):
            module.register_forward_pre_hook(partial(see, name))
    network(images)
    return found


@every_student
def test_it_learns_with_few_bits_and_its_file_predicts_the_same(student: StudentConfig) -> None:
    network, images = quantized(student).train(), torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer_loop = OptimizerLoop(network, AdamW(), num_steps=2, accumulation_steps=1)
    optimizer_loop.step(network(images).square().mean())
    moved = [n for n, value in network.named_parameters() if not torch.equal(value, before[n])]
    assert len(moved) > 0.8 * len(before)
    config = TrialConfig(student=student, recipe=Ptq(quantizer=BITS), num_epochs=1)
    card = model_spec(config, NUM_CLASSES)
    additions = [m for m in network.modules() if isinstance(m, QuantizedAddition)]
    assert bool(additions) == card.with_additions == (find_kind(student) in WITH_ADDITIONS)
    shipped = deserialize(serialize(network.eval(), card))
    exact = deserialize(serialize(network, card.replace(format=2)))
    assert not any(isinstance(module, QuantizedLayer) for module in shipped.modules())
    with torch.no_grad():
        assert torch.equal(convert(network)(images), exact(images))
        assert torch.equal(compacted(network)(images), shipped(images))
        for module in network.double().modules():
            if isinstance(module, StepQuantizer):  # whose steps are shipped in single precision
                module.log_step.copy_(module.log_step.float().exp().double().log())
    expected, found = (integers_of(each.double(), images.double()) for each in (network, exact))
    assert list(expected) == list(found)
    # A value that falls to the other side of a rounding changes later ones
    differing = (float((expected[name] != found[name]).float().mean()) for name in expected)
    assert next((share for share in differing if share), 0) < 1e-3
    network.float()
    for name, layer in convert(network).named_modules():
        if isinstance(layer, ConvertedLayer | ConvertedAddition):
            grid, loaded = layer.grid, shipped.get_submodule(f"{name}.grid")
            assert isinstance(loaded, StaticQuantizer)
            assert grid is not None
            assert (grid.bits, grid.zero_point) == (loaded.bits, loaded.zero_point)
            assert torch.equal(grid.step, loaded.step)
