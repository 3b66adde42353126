"""How a model looks at a file: the protocol that came with its weights, or the usual one."""

from dataclasses import replace

from torch import nn

from octvideo.config.published import PublishedInput, published_input
from octvideo.data.protocol import CentreCrop, Protocol
from octvideo.models.build import Spec
from octvideo.models.external import ExternalSpec
from octvideo.models.image import ImageSpec
from octvideo.models.spec import VideoSpec
from octvideo.utils.errors import UserError
from octvideo.weights.zoo import ZooEntry

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_TEST_SIZES = {160: 182, 224: 256, 312: 356}  # PySlowFast's, by the training crop


def protocol_of(model: nn.Module, sampling_rate: int | None = None) -> Protocol:
    """Returns the protocol of a model of octvideo; ``sampling_rate`` overrides its own.

    Raises:
        UserError: the model is none of octvideo, or sampling_rate is below 1.
    """
    if sampling_rate is not None and sampling_rate < 1:
        raise UserError(f"sampling_rate must be at least 1, got {sampling_rate}")
    known = getattr(model, "protocol", None)
    if not isinstance(known, Protocol):
        spec = getattr(model, "spec", None)
        if not isinstance(spec, (VideoSpec, ImageSpec, ExternalSpec)):
            raise UserError(
                f"{type(model).__name__} is not a model of octvideo.create_model: give the "
                "protocol of its views (settings=octvideo.Protocol(...))"
            )
        known = protocol_of_spec(spec)
    return known if sampling_rate is None else replace(known, sampling_rate=sampling_rate)


def protocol_of_spec(spec: Spec) -> Protocol:
    """Returns the usual protocol of a network.

    A video network for crops of 224 is tested with 256, X3D for 160 with 182 and for 312 with 356,
    any other one with its own size, as are image networks, whose pixels are normalised as is usual
    for ImageNet.
    """
    if isinstance(spec, ExternalSpec) and (published := published_input(spec.name)) is not None:
        return _published(spec, published)
    if spec.is_image:
        return Protocol(1, 1, spec.crop_size, mean=_IMAGENET_MEAN, std=_IMAGENET_STD,
                        centre_crop=CentreCrop(spec.crop_size))  # fmt: skip
    side = _TEST_SIZES.get(spec.crop_size, spec.crop_size)
    return Protocol(spec.num_frames, spec.sampling_rate, side)


def _published(spec: ExternalSpec, published: PublishedInput) -> Protocol:
    """Returns the view that a library has published for a network, with the clip of this one."""
    test, short = published.test_crop_size, published.short_side
    if spec.crop_size != published.crop_size:
        short, test = round(short * spec.crop_size / test), spec.crop_size
    if spec.is_image:
        crop = CentreCrop(test, test / short, published.interpolation)
        return Protocol(1, 1, test, mean=published.mean, std=published.std, centre_crop=crop)
    return Protocol(
        *(spec.num_frames, spec.sampling_rate, test),
        mean=published.mean,
        std=published.std,
        short_side=None if short == test else short,
        num_crops=3 if short == test else 1,
    )


def protocol_of_entry(entry: ZooEntry) -> Protocol:
    """Returns the protocol with which a model of the zoo was tested."""
    centre_crop = None
    if entry.is_image_network:
        centre_crop = CentreCrop(entry.crop_size, interpolation=entry.interpolation)
    return Protocol(
        entry.num_frames,
        entry.sampling_rate,
        entry.crop_size,
        entry.num_clips,
        entry.num_crops,
        mean=entry.mean,
        std=entry.std,
        centre_crop=centre_crop,
    )


def accepted(protocol: Protocol) -> Protocol:
    """Returns a protocol that came with a file, which must not be able to ask for all memory.

    Raises:
        UserError: a value is far beyond what any test uses.
    """
    sizes = {
        "TEST.NUM_ENSEMBLE_VIEWS": (protocol.num_clips, 1000),
        "DATA.NUM_FRAMES": (protocol.num_frames, 1024),
        "DATA.TEST_CROP_SIZE": (protocol.crop_size, 4096),
        "DATA.TRAIN_JITTER_SCALES": (protocol.short_side or protocol.crop_size, 4096),
    }
    for key, (value, limit) in sizes.items():
        if not 0 < value <= limit:
            raise UserError(
                f"the configuration in the checkpoint has {key} {value}, but only 1 to {limit} is "
                "accepted from a file: give a configuration of your own (--cfg FILE)"
            )
    return protocol
