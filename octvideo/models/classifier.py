"""The last layer of a network, which users replace for classes of their own, or leave out."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from octvideo.models.build import Spec
    from octvideo.models.heads import Head, ImageHead
    from octvideo.models.image import ImageSpec
    from octvideo.models.spec import VideoSpec


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


class Network(nn.Module):
    """A network that knows what it is; those that ``create_model`` makes also know the rest."""

    spec: "Spec"
    protocol: object  # an octvideo.data.Protocol: how it looks at a file
    class_names: list[str]

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by one with random weights; 0 classes leave it out."""
        raise NotImplementedError

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        licence: str = "",
        dataset: str = "",
        metrics: Mapping[str, float | str] | None = None,
    ) -> Path:
        """Writes the network as a folder that ``octvideo.from_pretrained`` and ``load`` open.

        It has model.safetensors, config.json (spec, protocol, class names) and README.md, a card
        with what is known: cost, protocol, classes, and the accuracy that is given here.

        Args:
            licence: of the weights, as "apache-2.0".
            dataset: what ``metrics`` were measured on.
            metrics: what was measured, as {"top-1 (%), 30 views": 74.1}; it is not checked.

        Returns:
            The folder.

        Raises:
            UserError: safetensors is not installed, the folder cannot be written, or the network
                was changed so that it cannot be built again from ``spec``.
        """
        from octvideo.models.pretrained import save_pretrained

        return save_pretrained(self, folder, licence=licence, dataset=dataset, metrics=metrics)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        message: str = "Upload a network of octvideo",
        licence: str = "",
        dataset: str = "",
        metrics: Mapping[str, float | str] | None = None,
    ) -> str:
        """Uploads what ``save_pretrained`` writes to a repository of the Hugging Face Hub.

        The repository is made where it is missing. Log in first: ``hf auth login``, or HF_TOKEN.

        Args:
            repository: "owner/name".
            private: whether a new repository is private.
            message: of the commit.
            licence, dataset, metrics: as in ``save_pretrained``.

        Returns:
            The address of the repository.

        Raises:
            UserError: as ``save_pretrained``, huggingface_hub is not installed, or the Hub refuses.
        """
        from octvideo.models.pretrained import push_to_hub

        card = {"licence": licence, "dataset": dataset, "metrics": metrics}
        return push_to_hub(self, repository, private, message, **card)


class Classifier(Network):
    """What networks with a head can do; the last layer is ``head.projection``, as in timm."""

    spec: "VideoSpec | ImageSpec"
    head: "Head | ImageHead"

    def init_weights(self) -> None:
        """Draws the first weights."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by one with random weights.

        0 classes leave it out: the network then returns the features before it, (N, C), averaged
        over positions, without an activation. Names of classes are forgotten.

        Raises:
            ValueError: num_classes is negative or not a whole number.
        """
        spec, old = replace(self.spec, num_classes=num_classes), self.head.projection
        device, dtype = old.weight.device, old.weight.dtype
        activation = self.head.activation
        if isinstance(old, NoClassifier):
            activation = old.activation
        if num_classes:
            last = nn.Linear(old.in_features, num_classes, device=device, dtype=dtype)
            nn.init.normal_(last.weight, std=spec.fc_init_std)
            nn.init.zeros_(last.bias)
            layer: nn.Linear | NoClassifier = last
        else:
            layer = NoClassifier(old.in_features, activation).to(device, dtype)
            activation = _unchanged
        del self.head.activation  # a module cannot become a function in place
        self.head.activation = activation
        self.head.projection = layer.train(old.training)
        self.spec = spec
        vars(self).pop("class_names", None)
