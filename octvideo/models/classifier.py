"""The last layer of a network, which users replace for classes of their own, or leave out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn


class NoClassifier(nn.Identity):
    """Stands where the last layer was: features (..., in_features) pass unchanged.

    ``weight``, without values, has the data type that the last layer would have.
    """

    weight: Tensor

    def __init__(self, in_features: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.in_features = in_features
        self.activation = activation  # of the head, for a last layer that comes back
        self.register_buffer("weight", torch.empty(0), persistent=False)


def _unchanged(x: Tensor) -> Tensor:
    return x


class Classifier:
    """What networks with a head can do; the last layer is ``head.projection``, as in timm."""

    spec: Any
    head: Any

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by one with random weights.

        0 classes leave it out: the network then returns the features before it, (N, C), averaged
        over positions, without an activation. Names of classes are forgotten.

        Raises:
            ValueError: num_classes is negative or not a whole number.
        """
        spec, old = replace(self.spec, num_classes=num_classes), self.head.projection
        place = {"device": old.weight.device, "dtype": old.weight.dtype}
        activation = self.head.activation
        if isinstance(old, NoClassifier):
            activation = old.activation
        if num_classes:
            layer: nn.Module = nn.Linear(old.in_features, num_classes, **place)
            nn.init.normal_(layer.weight, std=spec.fc_init_std)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        else:
            layer = NoClassifier(old.in_features, activation).to(**place)
            activation = _unchanged
        del self.head.activation  # a module cannot become a function in place
        self.head.activation = activation
        self.head.projection = layer.train(old.training)
        self.spec = spec
        vars(self).pop("class_names", None)
