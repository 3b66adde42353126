"""Which image network a checkpoint is of: the paper authors' files do not name theirs."""

from typing import Any

import torch

from octvideo.models import create_model
from octvideo.models.build import IMAGE_MODELS
from octvideo.weights import Weights, compare, low_channels_of
from octvideo.weights.load import HEAD

# What a paper's alpha may be; each network here is built to be sure of it.
_ALPHAS = sorted({k / n for n in (16, 40) for k in range(1, n)})


def network_of(weights: Weights) -> str | None:
    """The name of the image network whose parameters these are; None: of none."""
    for name in IMAGE_MODELS:
        with torch.device("meta"):
            model = create_model(name, len(weights.state.get(f"{HEAD}bias", [0])))
        if not compare(weights.state, {k: v.shape for k, v in model.state_dict().items()}):
            return name
    return None


def alpha_of(weights: Weights, name: str, **options: Any) -> float | None:
    """The ``octave_alpha`` of a file, with which ``name`` has the file's low channels.

    None: the file does not tell, as one of a vanilla network and most of PyTorch, or no alpha
    gives these channels. ``options``: as of ``create_model``.
    """
    lows = weights.low_channels
    if not lows:
        return None if lows is None else 0.0
    counts = [(len(weights.state[key]), low) for key, low in lows.items() if key in weights.state]

    def fits(alpha: float) -> int:
        return sum(int(alpha * count) == low for count, low in counts)

    for alpha in sorted(_ALPHAS, key=fits, reverse=True)[:3]:
        with torch.device("meta"):
            model = create_model(name, octave_alpha=alpha, **options)
        if low_channels_of(model) == lows:
            return alpha
    return None
