"""Networks that became octave after their training (`octvideo octavize`)."""

import logging
from dataclasses import replace
from typing import TypeVar

from torch import nn

from octvideo.models.build import build
from octvideo.models.classifier import Network
from octvideo.weights.read import Weights

Model = TypeVar("Model", bound=nn.Module)
logger = logging.getLogger("octvideo")


def as_converted(model: Model, weights: Weights) -> Model | Network:
    """Returns the network with the low channels that the record of its weights has, or ``model``.

    No configuration has room for the low channels of a converted network.
    """
    octave = weights.spec.octave if weights.spec is not None else None
    if octave is None or not octave.channels or not isinstance(model, Network):
        return model
    logger.info("%s was made octave after its training: so is the network", weights.path)
    return build(replace(model.spec, octave=octave))
