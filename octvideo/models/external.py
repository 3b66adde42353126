"""Networks of other projects as ours: what they are, and the adapter that our trainer takes."""

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.config.published import library_of, published_input
from octvideo.config.values import decode
from octvideo.models.classifier import Network, NoClassifier
from octvideo.models.heads import HEAD_ACTIVATIONS
from octvideo.models.image import images_of
from octvideo.models.libraries import is_function, make_network
from octvideo.models.record import NetworkSpec
from octvideo.models.slowfast import select_frames, slow_indices
from octvideo.models.spec import OctavePlacement, check_counts
from octvideo.models.trial import Trial, try_network
from octvideo.models.video_resnet import check_clips
from octvideo.surgery import octavize
from octvideo.utils.errors import UserError, check_known

logger = logging.getLogger("octvideo")

VANILLA = OctavePlacement()
# What an external network has of OctavePlacement.
_OF_THE_OCTAVE = ("alpha", "channel_divisor", "channels")
_TRIAL_BATCH = 2


@dataclass(frozen=True)
class ExternalSpec(NetworkSpec):
    """Everything that a network of another project is built from, as plain values.

    ``name``: "torchvision/NAME", "timm/NAME", "pytorchvideo/NAME" or "package.module:function".
    ``options``: arguments of the function that makes it, as "name=value"; a dict is taken, too.
    ``octave``: its alpha and its divisor; which layers are octave follows from the network, or
    from the channels of one that was converted.
    A network of ``num_frames`` 1 takes images (N, C, H, W), any other one clips (N, C, T, H, W).
    """

    name: str = ""
    num_classes: int = 400
    octave: OctavePlacement = VANILLA
    options: tuple[str, ...] = ()
    num_frames: int = 8
    sampling_rate: int = 8
    crop_size: int = 224
    input_channels: int = 3
    fc_init_std: float = 0.01
    head_activation: str = "softmax"

    def __post_init__(self) -> None:
        if library_of(self.name) is None and not is_function(self.name):
            raise ValueError(
                f"MODEL.MODEL_NAME {self.name!r} names no network of MODEL.ARCH external: write "
                "torchvision/NAME, timm/NAME, pytorchvideo/NAME or package.module:function"
            )
        check_counts(self, "num_classes", "num_frames", "crop_size", "input_channels")
        check_known("head activation", self.head_activation, HEAD_ACTIVATIONS)
        for place in fields(self.octave):
            value = getattr(self.octave, place.name)
            if place.name not in _OF_THE_OCTAVE and value != getattr(VANILLA, place.name):
                raise ValueError(
                    f"{place.name} {value} of the octave (OCTAVE.{place.name.upper()}) is for "
                    f"networks of octvideo, and {self.name} is none: leave it as it is by default"
                )
        object.__setattr__(self, "options", tuple(sorted(_as_texts(self.options))))

    @property
    def is_image(self) -> bool:  # type: ignore[override]
        """Returns whether it takes images (N, C, H, W)."""
        return self.num_frames == 1

    @property
    def arguments(self) -> dict[str, object]:
        """Returns the options as arguments of the function."""
        pairs = (text.partition("=") for text in self.options)
        return {name: decode(value) for name, _, value in pairs}

    @property
    def frame_ratio(self) -> int:
        """The frames of the fast pathway over those of the slow one; 1 where there is one."""
        if library_of(self.name) != "pytorchvideo":
            return 1
        published = published_input(self.name)
        return 1 if published is None else published.frame_ratio

    def octave_options(self) -> dict[str, object]:
        """Returns the octave as options of ``create_model``, without those that have no effect."""
        octave = self.octave
        if not octave.alpha:
            return {"octave_alpha": 0.0}
        return {
            "octave_alpha": octave.alpha,
            "channel_divisor": octave.channel_divisor,
            "octave_channels": octave.channels,
        }

    def _facts(self) -> dict[str, Any]:
        # The size of the maps decides which layers are octave.
        at = {"crop_size": self.crop_size} if self.octave.alpha else {}
        return super()._facts() | at

    def example(self, batch: int = 1, device: torch.device | str | None = None) -> Any:
        """Returns zeros that the network takes; of two pathways, [slow, fast]."""
        frames = () if self.is_image else (self.num_frames,)
        shape = (batch, self.input_channels, *frames, self.crop_size, self.crop_size)
        return self.inputs(torch.zeros(shape, device=device))

    def inputs(self, x: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Returns images, clips, or a list of one for each pathway, as the network takes them.

        Raises:
            ValueError: other shapes, or numbers that are no floats.
        """
        if self.is_image:
            return images_of(x)
        ratio = self.frame_ratio
        xs = [x] if isinstance(x, Tensor) else list(x)
        for clips in xs:
            check_clips(clips, self.input_channels)
        if ratio == 1 and len(xs) == 1:
            return xs[0]
        if ratio > 1 and len(xs) == 1:
            return [select_frames(xs[0], slow_indices(xs[0].shape[2], ratio)), xs[0]]
        if ratio > 1 and len(xs) == 2:
            return xs
        raise ValueError(f"{self.name} takes {1 + (ratio > 1)} clip tensors, got {len(xs)}")


def _as_texts(options: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Returns options as "name=value", each in the one spelling of its value.

    Raises:
        ValueError: one is no plain value, or no "name=value".
    """
    if not isinstance(options, Mapping):
        pairs = [text.partition("=") for text in options]
        if wrong := [name for name, equals, _ in pairs if not (equals and name.isidentifier())]:
            raise ValueError(f"MODEL.OPTIONS has {wrong[0]!r}: write name=value")
        options = {name: decode(value) for name, _, value in pairs}
    for name, value in options.items():
        if decode(repr(value)) != value:
            raise ValueError(
                f"the option {name} is {value!r:.60}: only numbers, texts, True, False, None, and "
                "lists of them are kept with the weights"
            )
    return [f"{name}={value!r}" for name, value in options.items()]


_taken: ContextVar[list[Tensor] | None] = ContextVar("taken", default=None)


def keep_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Keeps the input of the last layer for who asks for features in this thread."""
    if torch.compiler.is_compiling():  # a compiled network gives scores alone
        return
    taken = _taken.get()
    if taken is not None:
        taken.append(inputs[0])


class ExternalNetwork(Network):
    """A network of another project with what our trainer asks of a network.

    Its state dict is the state dict of the network, name by name, so checkpoints go both ways.

    Args:
        network: as its project has built it.
        trial: what it does with an example.
    """

    spec: ExternalSpec

    def __init__(self, spec: ExternalSpec, network: nn.Module, trial: Trial) -> None:
        super().__init__()
        self.spec, self.network, self.head_name = spec, network, trial.head
        self.gives_features = trial.gives_features
        self.activation = HEAD_ACTIVATIONS[spec.head_activation]
        if trial.head is not None:
            self._new_head = _maker_of(network.get_submodule(trial.head))
            network.get_submodule(trial.head).register_forward_pre_hook(keep_input)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, C, H, W), or clips (N, C, T, H, W), or one for each pathway -> (N, K).

        Logits in training, probabilities in evaluation (``head_activation``).

        Raises:
            ValueError: other shapes, or the network gives no scores in this mode.
        """
        y = self.network(self.spec.inputs(x))
        if not isinstance(y, Tensor) or y.ndim != 2:
            raise UserError(
                f"MODEL.MODEL_NAME {self.spec.name} gives {_shown(y)} in "
                f"{'training' if self.training else 'evaluation'}, and must give one tensor of "
                "scores (N, classes): change that in its code, or with MODEL.OPTIONS"
            )
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # autocast's half ends here
        return y if self.training or not self.spec.num_classes else self.activation(y)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images or clips, as in ``forward`` -> what the last layer sees.

        That is (N, C), or of a last layer that runs at several positions, with them.

        Raises:
            UserError: the network has no last layer that sees each clip once.
        """
        if not self.gives_features:
            raise UserError(
                f"{self.spec.name} has no last layer that sees each clip once, so it has no "
                "features to give"
            )
        taken: list[Tensor] = []
        token = _taken.set(taken)
        try:
            self.network(self.spec.inputs(x))
        finally:
            _taken.reset(token)
        return taken[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What ``forward_features`` returns -> features (N, C), averaged over positions.

        Raises:
            ValueError: ``pre_logits`` is False; what comes after the last layer is known to the
                network alone, so scores are its ``forward``'s.
        """
        if not pre_logits:
            raise ValueError(f"{self.spec.name}: call the model itself for scores")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        channel = x.ndim - 1 if self._new_head.func is nn.Linear else 1
        positions = [d for d in range(1, x.ndim) if d != channel]
        return x.mean(positions) if positions else x

    @property
    def head(self) -> nn.Module:
        """The last layer."""
        assert self.head_name is not None
        return self.network.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by one with random weights, or with none for 0 classes.

        Then the network returns the features before it. Names of classes are forgotten.

        Raises:
            UserError: the network has no last layer that gives its scores.
            ValueError: num_classes is negative or not a whole number.
        """
        spec = replace(self.spec, num_classes=num_classes)
        if self.head_name is None:
            raise UserError(
                f"MODEL.MODEL_NAME {spec.name} ends in no linear layer or convolution that gives "
                f"its scores, so it cannot be made to have {num_classes} classes: let its "
                "function take num_classes, or set MODEL.NUM_CLASSES to what it has"
            )
        old: Any = self.head
        place = {"device": old.weight.device, "dtype": old.weight.dtype}
        if num_classes:
            layer: nn.Module = self._new_head(num_classes, **place)
            nn.init.normal_(layer.weight, std=spec.fc_init_std)  # type: ignore[arg-type]
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        else:
            layer = NoClassifier(self._new_head.args[0], self.activation).to(**place)
        layer.register_forward_pre_hook(keep_input)
        parent, _, child = self.head_name.rpartition(".")
        setattr(self.network.get_submodule(parent), child, layer.train(old.training))
        self.spec = spec
        vars(self).pop("class_names", None)

    # The names of the network's parameters, without a prefix.
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the state dict of the network."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> object:
        """Loads a state dict of the network."""
        return self.network.load_state_dict(*args, **kwargs)


def _maker_of(layer: nn.Module) -> "partial[nn.Linear] | partial[nn.Module]":
    """Returns what makes a layer like this one for a number of classes."""
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return partial(nn.Linear, layer.in_features, bias=has_bias)
    conv: Any = layer
    kinds: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    return partial(
        kinds[len(conv.kernel_size)],
        conv.in_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        bias=has_bias,
    )


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def build_external(spec: ExternalSpec) -> ExternalNetwork:
    """Builds a network of another project with random weights, on the CPU; it runs their code.

    Raises:
        UserError: it cannot be built, does not take the input that ``spec`` describes, or does not
            give scores of its classes.
    """
    clip = (spec.num_frames, spec.crop_size)
    network = make_network(spec.name, spec.arguments, clip, spec.num_classes)
    trial = try_network(network, spec.name, spec.example(_TRIAL_BATCH, "meta"))
    if spec.octave.alpha:
        _octavize(network, spec)
    model = ExternalNetwork(spec, network, trial)
    if not spec.num_classes:
        model.reset_classifier(0)
    elif trial.num_classes != spec.num_classes:
        _change_classes(model, trial)
    return model


def _change_classes(model: ExternalNetwork, trial: Trial) -> None:
    spec = model.spec
    model.reset_classifier(spec.num_classes)
    try:
        found = try_network(model.network, spec.name, spec.example(_TRIAL_BATCH, "meta"))
        if found.num_classes != spec.num_classes:
            raise UserError(f"it gives {found.num_classes} scores")
    except UserError as error:
        raise UserError(
            f"MODEL.MODEL_NAME {spec.name} has {trial.num_classes} classes, and does not work with "
            f"a last layer ({trial.head}) of {spec.num_classes}: let its function take num_classes "
            f"({error})"
        ) from error
    level = logging.DEBUG if is_on_meta(model) else logging.INFO  # a trial, or the network
    text = "%s: its last layer, %s, has %d classes instead of %d"
    logger.log(level, text, spec.name, trial.head, spec.num_classes, trial.num_classes)


def is_on_meta(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())


def _octavize(network: nn.Module, spec: ExternalSpec) -> None:
    """Makes it octave, in place, as `octvideo.octavize` does by default or as it was converted."""
    try:
        octavize(
            network,
            spec.octave.alpha,
            example=spec.example(device=next(network.parameters()).device),
            placement=dict(spec.octave.channels) or "default",
            divisor=spec.octave.channel_divisor,
            inplace=True,
        )
    except ValueError as error:
        raise UserError(f"MODEL.MODEL_NAME {spec.name} cannot be octave: {error}") from error
