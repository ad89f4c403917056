"""Parts that many tests build alike."""

from trainables.metrics import Metrics


def make_metrics(
    miou: float, size_bytes: int | None, epoch: int = 1, device_seconds: float = 1
) -> Metrics:
    """What a trial reports; without `size_bytes` it has not finished."""
    return Metrics(
        epoch=epoch,
        time_ms=epoch,
        miou=miou,
        pixel_accuracy=0.5,
        losses={"cross_entropy": 1.0},
        device_seconds=device_seconds,
        start_seconds=0,
        num_params=1,
        macs=1,
        predicted_size_bytes=size_bytes or 1000,
        size_bytes=size_bytes,
    )
