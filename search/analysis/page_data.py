"""What the page of a front shows, as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.analysis.diagnostics import SearchDiagnostics
from search.analysis.masks import image_address, mask_address
from search.analysis.other_fronts import OtherFront
from search.analysis.plot_layout import COLORS, Point
from search.core.baselines import Baseline
from search.core.parameter_names import short_names, written_params
from search.core.pareto import SIZES_KB
from search.core.record import DISTURBED, Record
from trainables.core.metrics import TeacherMetrics
from trainables.core.units import human_cost
from trainables.data.labels import voc_palette
from trainables.quantization.bits import FULL_PRECISION
from trainables.training.examples import Examples, Masks

NUM_EPOCHS = 40
"""Points of a learning curve, of which longer ones keep every so many."""
PRECISE = 5
"""Decimal places of a share."""
COSTS = {
    "size": "file size",
    "latency": "latency for an image on one core",
    "ram": "memory of activations",
    "macs": "multiply-accumulates of an image",
}
"""Costs by which a student can be chosen."""
NUM_PICTURES, LEAST_EXAMPLES = 56, 2
"""Masks that a page of a large front shows in all, of 2 KB each, and the fewest examples it has."""


@dataclass(frozen=True)
class PageContext:
    """What a page shows besides the trials: `export` begins the command that exports one."""

    class_names: Sequence[str]
    teacher: TeacherMetrics | None = None
    baselines: Sequence[Baseline] = ()
    others: Sequence[OtherFront] = ()
    diagnostics: SearchDiagnostics | None = None
    export: str = "python -m search.export STUDY"
    examples: Examples | None = None
    masks: Mapping[str, Masks] = field(default_factory=dict)
    """By trial, what its model predicts for the examples."""


def page_data(
    records: Sequence[Record], points: Sequence[Point], context: PageContext
) -> dict[str, Any]:
    """The content of the page's JSON."""
    finished = {point.trial_id: point for point in points}
    shown = slice(max(LEAST_EXAMPLES, NUM_PICTURES // (len(context.masks) + 2)))
    trials = [
        {
            **trial_data(record, finished.get(record.trial_id), context.export),
            "masks": [mask_address(m) for m in context.masks.get(record.trial_id, ())[shown]],
        }
        for record in records
    ]
    diagnostics = context.diagnostics
    return {
        "trials": trials,
        "classes": list(context.class_names),
        "classColors": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in voc_palette().tolist()][
            : len(context.class_names)
        ],
        "examples": examples_data(context.examples, shown),
        "teacher": teacher_data(context.teacher),
        "costs": [
            {"key": key, "label": label}
            for key, label in COSTS.items()
            if key == "size" or any(t["front"] and t[key] is not None for t in trials)
        ],
        "presets": SIZES_KB,
        "colors": {str(bits): color for bits, color in COLORS.items()},
        "baselines": [
            {"name": each.name, "size": each.size_bytes, "miou": each.miou}
            for each in context.baselines
        ],
        "others": [
            {
                "name": other.name,
                "points": [{"size": size, "miou": miou} for size, miou in other.points],
            }
            for other in context.others
        ],
        "hypervolume": [
            (round(step.device_seconds, 1), round(step.hypervolume, PRECISE))
            for step in (diagnostics.steps if diagnostics else ())
        ],
        "importances": {
            metric: {short: rounded(shares[path]) for path, short in short_names(shares).items()}
            for metric, shares in (diagnostics.importances if diagnostics else {}).items()
        },
    }


def trial_data(record: Record, point: Point | None, export: str) -> dict[str, Any]:
    """One trial; `point` is None where it did not finish."""
    metrics, config = record.metrics, record.config
    history = record.history
    every = -(-len(history) // NUM_EPOCHS) or 1
    kept = [*history[:-1:every], *history[-1:]]
    quantizer = config.quantizer if config and not config.needs_sensitivity else None
    return {
        "id": record.trial_id,
        "label": point.label if point else record.trial_id,
        "state": record.state,
        "reason": record.reason,
        "front": bool(point and point.on_front),
        "reference": bool(config and config.recipe.is_reference),
        "miou": rounded(metrics.miou) if metrics else None,
        "otherSeed": rounded(record.other_seed_miou),
        "size": metrics.size_bytes if metrics else None,
        "compressed": metrics.compressed_bytes if metrics else None,
        "latency": rounded(record.latency_ms),
        "latencyNote": DISTURBED if record.latency_disturbed else "",
        "ram": metrics.ram_bytes if metrics else None,
        "macs": metrics.macs if metrics else None,
        "misses": bool(metrics and metrics.classes_never_predicted),
        "missed": metrics.share_never_predicted if metrics else "",
        "iou": list(map(rounded, (metrics and metrics.class_iou) or ())),
        "bits": point.bits if point else "",
        "weightBits": point.weight_bits if point else FULL_PRECISION,
        "student": config.student.describe() if config else "",
        "recipe": config.recipe.name if config else "",
        "epochs": metrics.epoch if metrics else 0,
        "seconds": round(metrics.device_seconds, 1) if metrics else 0,
        "cost": human_cost(record.cost),
        "curve": [(r.epoch, rounded(r.miou)) for r in kept],
        "layers": [
            (name, str(bits.weight_bits), str(bits.activation_bits))
            for name, bits in (quantizer.layers if quantizer else {}).items()
        ],
        "params": written_params(record.params),
        "export": f"{export} --trial {record.trial_id} --out exported",
    }


def examples_data(examples: Examples | None, shown: slice) -> Mapping[str, Any] | None:
    """Images, their labels and what the teacher predicts, as addresses of pictures."""
    if examples is None:
        return None
    teacher = () if examples.teacher is None else examples.teacher[shown]
    return {
        "images": [image_address(image) for image in examples.images[shown]],
        "truths": [mask_address(mask) for mask in examples.truths[shown]],
        "teacher": [mask_address(mask) for mask in teacher],
    }


def teacher_data(teacher: TeacherMetrics | None) -> Mapping[str, Any] | None:
    """The teacher's scores on the validation split."""
    if teacher is None:
        return None
    return {
        "miou": rounded(teacher.val.miou),
        "iou": [rounded(iou) for iou in teacher.val.class_iou],
    }


def rounded(value: float | None) -> float | None:
    """A number of few digits; None where it is unknown."""
    return None if value is None else round(value, PRECISE)
