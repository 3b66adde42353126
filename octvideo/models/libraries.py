"""Networks by name out of other projects' code: torchvision, timm, PyTorchVideo, or the user's."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module

from torch import nn

from octvideo.config.published import (
    library_of,
    published_input,
    pytorchvideo_name,
    timm_name,
    torchvision_name,
)
from octvideo.utils.errors import UserError
from octvideo.utils.extras import import_extra

_FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
# Arguments that would make a library load weights of its own, or say what other keys say.
_OF_WEIGHTS = frozenset(
    {"pretrained", "weights", "weights_backbone", "checkpoint_path", "pretrained_cfg"}
    | {"pretrained_cfg_overlay", "cache_dir", "progress", "scriptable"}
)
_OF_CLASSES = frozenset({"num_classes", "model_num_class"})
# What code of others raises on arguments or inputs that it cannot take.
FOREIGN_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def is_function(name: str) -> bool:
    """Returns whether a name is of the form "package.module:function"."""
    return _FUNCTION.fullmatch(name) is not None


def make_network(
    name: str, options: dict[str, object], clip: tuple[int, int], num_classes: int
) -> nn.Module:
    """Builds a network with random weights, and runs its project's code for that.

    Args:
        options: arguments of the function that makes it.
        clip: frames and crop that the network is to be used with.
        num_classes: an argument of the user's own function, where it has one of this name.

    Raises:
        UserError: there is no such network, its library is missing, it does not take the options,
            or it is no ``nn.Module``.
    """
    library = library_of(name)
    refused = sorted(options.keys() & (_OF_CLASSES | (_OF_WEIGHTS if library else set())))
    if refused:
        instead = "MODEL.NUM_CLASSES" if refused[0] in _OF_CLASSES else "TRAIN.CHECKPOINT_FILE_PATH"
        raise UserError(
            f"MODEL.OPTIONS of {name}: {refused[0]} is what {instead} says: leave it out (in "
            "Python, create_model has num_classes and pretrained)"
        )
    if library is None:
        function = _own_function(name)
        if num_classes and "num_classes" in inspect.signature(function).parameters:
            options = {**options, "num_classes": num_classes}
    else:
        function = _MAKERS[library](name)
    try:
        network = function(**options)
    except FOREIGN_ERRORS as error:
        raise UserError(
            f"MODEL.MODEL_NAME {name} cannot be built with MODEL.OPTIONS {options}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"MODEL.MODEL_NAME {name} gives a {type(network).__name__}: the function must return a "
            "network (torch.nn.Module)"
        )
    if library == "pytorchvideo":
        _fit_head(network, name, clip)
    return network


def _own_function(name: str) -> Callable[..., object]:
    match = _FUNCTION.fullmatch(name)
    if match is None:
        raise UserError(
            f"MODEL.MODEL_NAME {name!r} names no network of MODEL.ARCH external: write "
            "torchvision/NAME, timm/NAME, pytorchvideo/NAME or package.module:function"
        )
    try:
        module = import_module(match["module"])
    except ImportError as error:
        raise UserError(
            f"MODEL.MODEL_NAME {name}: {match['module']} cannot be imported ({error}): put the "
            "folder that it is in on PYTHONPATH, or install it"
        ) from error
    function = getattr(module, match["function"], None)
    if not callable(function):
        raise UserError(
            f"MODEL.MODEL_NAME {name}: {module.__file__} has no function {match['function']}"
        )
    return function


def _of_torchvision(name: str) -> Callable[..., object]:
    models = import_extra("torchvision.models", "torchvision", f"MODEL.MODEL_NAME {name}")
    bare = torchvision_name(name)
    return partial(models.get_model, bare, weights=None, **torchvision_defaults(bare))


def torchvision_defaults(name: str) -> dict[str, bool]:
    """Returns arguments that a network has beside its weights, by torchvision's name.

    GoogLeNet and Inception V3 give more than scores in training, for their auxiliary heads; with
    their published weights they normalise once more.
    """
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "transform_input": True}
    return {}


def _of_timm(name: str) -> Callable[..., object]:
    timm, bare = import_extra("timm", "timm", f"MODEL.MODEL_NAME {name}"), timm_name(name)
    return partial(timm.create_model, bare, pretrained=False)


def _of_pytorchvideo(name: str) -> Callable[..., object]:
    bare = pytorchvideo_name(name)
    hub = import_extra("pytorchvideo.models.hub", "pytorchvideo", f"MODEL.MODEL_NAME {name}")
    return getattr(hub, bare)


_MAKERS = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "pytorchvideo": _of_pytorchvideo,
}


def _fit_head(network: nn.Module, name: str, clip: tuple[int, int]) -> None:
    """Removes the softmax of a head, and scales its window to the clip.

    The hub's heads average over the map of their own clip, and take no smaller one.
    """
    published = published_input(name)
    assert published is not None
    frames, side = clip[0] / published.num_frames, clip[1] / published.crop_size
    for module in network.modules():
        if isinstance(getattr(module, "activation", None), (nn.Softmax, nn.Sigmoid)) and (
            hasattr(module, "proj")
        ):
            module.activation = None  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, nn.AvgPool3d) and isinstance(module.kernel_size, (tuple, list)):
            scaled = zip(module.kernel_size, (frames, side, side), strict=True)
            t, h, w = (max(int(n * share), 1) for n, share in scaled)
            module.kernel_size = (t, h, w)
