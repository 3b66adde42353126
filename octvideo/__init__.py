"""octvideo: Octave Convolution for video action recognition.

The names below are imported when they are first used, so that ``import octvideo`` is quick
and needs no optional package.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octvideo.api.create import create_model
    from octvideo.api.exporting import export
    from octvideo.api.loading import from_pretrained, load
    from octvideo.api.predict import extract_features, predict
    from octvideo.api.quantization import quantize
    from octvideo.data import VideoError
    from octvideo.data.protocol import Protocol
    from octvideo.data.protocol import Protocol as ViewSettings
    from octvideo.models import list_models, optimize_for_inference
    from octvideo.surgery import calibrate, distill, octavize, refit, summary
    from octvideo.utils.errors import UserError
    from octvideo.weights.zoo import list_pretrained

__version__ = "0.1.0"

_PUBLIC = {
    "Protocol": "octvideo.data.protocol",
    "UserError": "octvideo.utils.errors",
    "VideoError": "octvideo.data",
    "calibrate": "octvideo.surgery",
    "create_model": "octvideo.api.create",
    "distill": "octvideo.surgery",
    "export": "octvideo.api.exporting",
    "extract_features": "octvideo.api.predict",
    "from_pretrained": "octvideo.api.loading",
    "list_models": "octvideo.models",
    "list_pretrained": "octvideo.weights.zoo",
    "load": "octvideo.api.loading",
    "octavize": "octvideo.surgery",
    "optimize_for_inference": "octvideo.models",
    "predict": "octvideo.api.predict",
    "quantize": "octvideo.api.quantization",
    "refit": "octvideo.surgery",
    "summary": "octvideo.surgery",
}

_ROOMS = (
    "api",
    "cli",
    "config",
    "data",
    "deploy",
    "distributed",
    "engine",
    "layers",
    "models",
    "surgery",
    "utils",
    "weights",
)

__all__ = [
    "Protocol",
    "UserError",
    "VideoError",
    "ViewSettings",
    "__version__",
    "calibrate",
    "create_model",
    "distill",
    "export",
    "extract_features",
    "from_pretrained",
    "list_models",
    "list_pretrained",
    "load",
    "octavize",
    "optimize_for_inference",
    "predict",
    "quantize",
    "refit",
    "summary",
]


def __getattr__(name: str) -> object:
    if name == "ViewSettings":  # its first name
        name = "Protocol"
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"octvideo.{name}")
    raise AttributeError(f"module 'octvideo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
