"""The weights that libraries of networks publish: "torchvision/resnet50", by their own download."""

from torch import Tensor

from octvideo.config.published import (
    library_of,
    pytorchvideo_name,
    timm_name,
    torchvision_name,
)
from octvideo.data.labels import class_names
from octvideo.models.libraries import torchvision_defaults
from octvideo.utils.errors import UserError
from octvideo.utils.extras import import_extra
from octvideo.weights.download import DownloadError

# What the libraries' downloads raise: no network, a cut connection, a file that is not there.
_FAILURES = (OSError, RuntimeError, ValueError, ImportError)


def library_address(name: str) -> str | None:
    """Returns the address of a file of PyTorchVideo's hub; None for names of other libraries.

    Raises:
        UserError: PyTorchVideo is missing, has no such network, or no weights of it.
    """
    if library_of(name) != "pytorchvideo":
        return None
    hub = import_extra("pytorchvideo.models.hub", "pytorchvideo", f"the weights of {name}")
    bare = pytorchvideo_name(name)
    module = import_extra(getattr(hub, bare).__module__, "pytorchvideo", name)
    paths = vars(module).get("checkpoint_paths") or vars(module).get("_checkpoint_paths") or {}
    if bare not in paths:
        raise UserError(f"PyTorchVideo publishes no weights of {name}")
    return str(paths[bare])


def library_state(name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Returns the parameters that torchvision or timm publishes, and the names of the classes.

    Raises:
        UserError: the library is missing, or has no weights of this network.
        DownloadError: they cannot be downloaded.
    """
    try:
        if library_of(name) == "torchvision":
            return _of_torchvision(name)
        bare = timm_name(name)
        timm = import_extra("timm", "timm", f"the weights of {name}")
        return timm.create_model(bare, pretrained=True).state_dict(), None
    except UserError:
        raise
    except _FAILURES as error:
        raise DownloadError(f"the weights of {name} cannot be downloaded: {error}") from error


def _of_torchvision(name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    bare = torchvision_name(name)
    models = import_extra("torchvision.models", "torchvision", f"the weights of {name}")
    weights = models.get_model_weights(bare).DEFAULT
    network = models.get_model(bare, weights=weights, **torchvision_defaults(bare))
    return network.state_dict(), list(weights.meta["categories"])


def library_class_names(name: str) -> list[str] | None:
    """Returns the names of the classes of PyTorchVideo's networks, all of Kinetics-400."""
    return class_names("kinetics400") if library_of(name) == "pytorchvideo" else None
