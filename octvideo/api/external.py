"""Networks of other projects by name, with the weights of their library or of a file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from octvideo.api.protocols import accepted, protocol_of_spec
from octvideo.config import cfg_of_checkpoint
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.models.build import Spec, with_options
from octvideo.models.external import ExternalNetwork, ExternalSpec, build_external
from octvideo.models.record import in_options
from octvideo.utils.errors import UserError
from octvideo.weights import Weights, check_fit, load_into, read_weights, trained_spec

logger = logging.getLogger("octvideo")


def create_external(
    named: ExternalSpec,
    given: Mapping[str, Any],
    pretrained: str | Path | bool | None,
    clear_names: Sequence[str] = (),
) -> ExternalNetwork:
    """Builds a network of another project, as `create_model` does.

    Args:
        named: what its name stands for.
        given: options that change it; those that are None, or missing, are as the weights were
            trained.
        pretrained: True for the weights that its library publishes, or a file.

    Raises:
        UserError: the network cannot be built, or the weights cannot be read or do not fit.
        ValueError: the network has no such option, or a value is none of its values.
    """
    if pretrained is None or pretrained is False:
        model = build_external(with_options(named, **given))
        model.protocol = protocol_of_spec(model.spec)
        return model
    if pretrained is True and ":" in named.name:
        raise UserError(f"{named.name} is code of your own: name the file of its weights instead")
    source = named.name if pretrained is True else str(pretrained)
    weights = read_weights(source, clear_names=clear_names, average=True)
    trained = trained_spec(weights, named)
    spec = _as_trained(named, trained, weights)
    as_built = {**given, "num_classes": None, "octave_alpha": 0.0}
    # A file may say that it is of a network larger than all memory. Vanilla: the shapes are those.
    with torch.device("meta"):
        skeleton = build_external(with_options(spec, **as_built))
    classes = _num_classes(skeleton, weights)
    wanted = given.get("num_classes")
    wanted = classes if wanted is None else wanted
    options = {**given, "num_classes": spec.num_classes if wanted is None else wanted}
    spec = with_options(spec, **options)
    is_new = spec.num_classes != classes
    if spec.num_classes != skeleton.spec.num_classes:
        skeleton.reset_classifier(spec.num_classes)
    check_fit(skeleton, weights, finetune=is_new)
    model = build_external(spec)
    logger.info("%s", load_into(model, weights, finetune=is_new, tell=in_options))
    model.protocol = _protocol(spec, weights)
    if weights.class_names and len(weights.class_names) == classes and not is_new:
        model.class_names = weights.class_names
    return model


def _as_trained(named: ExternalSpec, trained: Spec | None, weights: Weights) -> ExternalSpec:
    """Returns the network of a name as the weights were trained, if they are of that name."""
    if not isinstance(trained, ExternalSpec) or trained.name != named.name:
        return named
    if trained.octave.alpha:
        logger.info("The weights are of an octave network: octave_alpha=%g", trained.octave.alpha)
    taken = {f.name: getattr(trained, f.name) for f in fields(trained) if f.name != "name"}
    return replace(named, **taken)


def _num_classes(model: ExternalNetwork, weights: Weights) -> int | None:
    """Returns the classes of the last layer in a file; None where it has none."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    weight = weights.for_network(shapes, True).get(f"{model.head_name}.weight")
    return None if weight is None else len(weight)


def _protocol(spec: ExternalSpec, weights: Weights) -> Protocol:
    """Returns how the weights look at a file: as they were trained, or as is published."""
    protocol, cfg = weights.protocol, cfg_of_checkpoint(weights.cfg)
    if protocol is None and cfg is not None:
        protocol = build_protocol(cfg)
    if protocol is None:
        return protocol_of_spec(spec)
    # The machine that trained it may have had another backend and precision.
    protocol = replace(protocol, backend="pyav", precision="fp32")
    clip = replace(protocol, num_frames=spec.num_frames, sampling_rate=spec.sampling_rate)
    return accepted(clip)
