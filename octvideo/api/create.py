"""Models by name, with random weights or those of the zoo or a file.

A model made here knows what it is (``model.spec``), how it looks at a file (``model.protocol``)
and, where its weights say it, what its classes are called (``model.class_names``).
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from octvideo.api.external import create_external
from octvideo.api.protocols import accepted, protocol_of_entry, protocol_of_spec
from octvideo.config import cfg_of_checkpoint
from octvideo.data.labels import class_names
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.models.build import OCT, Spec, build, name_of, named_spec, with_options
from octvideo.models.external import ExternalSpec
from octvideo.models.image import ImageSpec
from octvideo.models.record import in_options
from octvideo.models.resnet2d import ResNet2dSpec
from octvideo.models.spec import ResNetSpec, VideoSpec
from octvideo.utils.errors import UserError
from octvideo.weights import Weights, check_fit, load_into, read_weights, trained_spec
from octvideo.weights.load import HEAD
from octvideo.weights.zoo import ZooEntry, zoo_entries, zoo_entry

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from octvideo.models.build import NetworkOptions

logger = logging.getLogger("octvideo")


def create_model(
    name: str,
    num_classes: int | None = None,
    octave_alpha: float | None = None,
    *,
    pretrained: str | Path | bool | None = None,
    clear_names: Sequence[str] = (),
    **options: "Unpack[NetworkOptions]",
) -> nn.Module:
    """Builds a model, with random weights or with those of the zoo or a file.

    Args:
        name: one of ``list_models()``, for example "i3d_r50" or "oct_i3d_r50"; or a network of
            another project: "torchvision/resnet50", "timm/resnet50", "pytorchvideo/x3d_m", or
            "package.module:function", which is imported and called.
        num_classes: width of the last layer; 0 for none, so that the model returns features.
            None: that of the weights, or without weights 400, of image networks 1000. If it is
            not that of the weights, the last layer starts from random weights, with a warning.
        octave_alpha: share of low-frequency channels in [0, 1). None: that of the weights, as the
            zoo's entry, the record or configuration in the checkpoint, or the authors' file says
            it; else 0, or 0.125 for names that begin with "oct_". An octave network takes the
            weights of the vanilla one (its non-local blocks excepted) to be fine-tuned; a warning
            says so, as with any other difference.
        pretrained: one of ``list_pretrained()``, downloaded at its first use, or the path of a
            checkpoint (octvideo, PySlowFast, Caffe2, PyTorchVideo, the paper authors' MXNet files,
            or a 2D ResNet, which a video network inflates). Of a training run with EMA, the
            averaged weights are loaded, as in a test. For a network of another library, True
            stands for the weights that it publishes.
        clear_names: texts to remove, each at its first occurrence, from the names in the file. The
            usual prefixes ("module.", "backbone.") are recognised without it.
        options: the octave's (octave_stages, channel_divisor, octave_pathways, nonlocal_mode,
            pool_stride) and fields of the network's specification (num_frames, crop_size,
            dropout_rate, ...); see ``NetworkOptions``. Those that are not given are as the weights
            were trained. A network of another project has ``options``, a dict of arguments for
            the function that makes it.

    Raises:
        ValueError: an unknown name, option or value.
        UserError: the weights cannot be read or downloaded, or do not fit.
    """
    if name in {entry.name for entry in zoo_entries()}:
        raise UserError(
            f"{name} names weights of the zoo, not a network: "
            f"create_model({zoo_entry(name).model!r}, pretrained={name!r})"
        )
    named = named_spec(name)
    if isinstance(named, ExternalSpec):
        given = {"num_classes": num_classes, "octave_alpha": octave_alpha, **options}
        return create_external(named, given, pretrained, clear_names)
    if pretrained is True:
        raise UserError(
            f"pretrained=True is for networks of other libraries: for {name}, name weights of "
            "list_pretrained() or a file"
        )
    if pretrained is None or pretrained is False:
        new = build(with_options(named, num_classes, octave_alpha, **options))
        new.protocol = protocol_of_spec(new.spec)
        return new
    source = str(pretrained)
    is_file = os.path.isfile(source) or os.sep in source  # else a name of the zoo
    if not is_file:
        zoo_entry(source)
    weights = read_weights(source, clear_names=clear_names, average=True)
    return _with_weights(name, named, weights, num_classes, octave_alpha, **options)


def _with_weights(
    name: str,
    named: Spec,
    weights: Weights,
    num_classes: int | None,
    octave_alpha: float | None,
    **options: "Unpack[NetworkOptions]",
) -> nn.Module:
    """Builds the named network as the weights were trained, except for what is given."""
    inflate, classes = weights.is_2d and not isinstance(named, ImageSpec), _num_classes(weights)
    if num_classes is None:
        num_classes = 400 if inflate or not classes else classes
    trained = trained_spec(weights, with_options(named, classes or None, **options))
    spec = named if trained is None else _as_trained(name, named, trained, weights.entry)
    spec = with_options(spec, num_classes, octave_alpha, **options)
    is_new = inflate or num_classes != classes
    if trained is not None:  # a file may say that it is of a network larger than all memory
        with torch.device("meta"):
            check_fit(build(spec), weights, finetune=is_new, inflate=inflate)
    model = build(spec)
    report = load_into(model, weights, finetune=is_new, inflate=inflate, tell=in_options)
    logger.info("%s", report)
    protocol = None if inflate else _protocol(name, weights)
    if protocol is not None:
        frames = options.get("num_frames", protocol.num_frames)
        rate = options.get("sampling_rate", protocol.sampling_rate)
        model.protocol = accepted(replace(protocol, num_frames=frames, sampling_rate=rate))
    names = weights.class_names
    if weights.entry is not None and weights.entry.class_names:
        names = class_names(weights.entry.class_names)
    if names and len(names) == classes and not is_new:
        model.class_names = names
    return model


# Fields that a name stands for, and fields that matter in training alone.
_OF_THE_NAME = {"arch", "depth", "depth_factor", "transform", "expansion", "octave", "num_classes"}
_OF_TRAINING = {"act_checkpoint", "inplace_relu", "zero_init_final_bn", "fc_init_std"}


def _as_trained(name: str, named: Spec, trained: Spec, entry: ZooEntry | None) -> Spec:
    """Returns the network of a name as the weights were trained.

    That is ``named`` itself if they are of another network, unless it is an image network that
    a video network can be inflated from.
    """
    if entry is not None and entry.model == name.removeprefix(OCT):
        return trained
    octave = trained.octave if trained.octave.alpha else replace(named.octave, alpha=0.0)
    if octave.alpha:
        logger.info("The weights are of an octave network: octave_alpha=%g", octave.alpha)
    if isinstance(trained, ResNet2dSpec) and isinstance(named, ResNetSpec):
        octave = replace(octave, pool_stride=trained.is_octave)  # as 2D networks do
        return replace(named, octave=octave, width_per_group=trained.width, bn_eps=trained.bn_eps)
    if isinstance(named, ImageSpec) or isinstance(trained, ImageSpec):
        is_same = name_of(trained) == name.removeprefix(OCT)
    else:
        is_same = (
            isinstance(trained, VideoSpec)
            and isinstance(named, VideoSpec)
            and (type(trained), trained.arch) == (type(named), named.arch)
        )
    if not is_same:
        return named
    kept = _OF_THE_NAME | _OF_TRAINING
    blocks = [s.non_local.blocks for s in (named, trained) if isinstance(s, ResNetSpec)]
    if blocks and blocks[0] != blocks[1]:
        kept = kept | {"non_local", "fast_non_local"}
    taken = {f.name: getattr(trained, f.name) for f in fields(trained) if f.name not in kept}
    return replace(named, octave=octave, **taken)


def _protocol(name: str, weights: Weights) -> Protocol | None:
    """Returns how the network of the weights, or their authors, looked at files; None: unknown."""
    entry = weights.entry
    if entry is None and (weights.protocol or weights.cfg):
        protocol, cfg = weights.protocol, cfg_of_checkpoint(weights.cfg)
        if protocol is None and cfg is not None:
            protocol = build_protocol(cfg)
        # The machine that trained it may have had another backend and precision.
        return protocol and replace(protocol, backend="pyav", precision="fp32")
    if entry is None and isinstance(named_spec(name), ImageSpec):
        bare = name.removeprefix(OCT)
        entry = next((e for e in zoo_entries() if e.model == bare and e.is_image_network), None)
    return None if entry is None else protocol_of_entry(entry)


def _num_classes(weights: Weights) -> int | None:
    bias = weights.state.get(f"{HEAD}bias")
    return None if bias is None else len(bias)
