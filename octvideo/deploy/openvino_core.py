"""The one Core of OpenVINO that a process has."""

from functools import cache
from types import ModuleType
from typing import Any

from octvideo.utils.extras import import_extra


def openvino_core(user: str) -> Any:
    """Returns the Core of this process, made at the first call and kept until the process ends.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers, and takes it
    back when the last network of its Core is gone. With two Cores that end in the order in which
    they began, the thread keeps a stack that is no longer there, and the next signal, such as
    Ctrl-C, ends the process by a segmentation fault.

    user: what needs it, for the message, as a path.

    Raises:
        UserError: OpenVINO is missing.
    """
    return _core(import_extra("openvino", "openvino", user))


@cache
def _core(openvino: ModuleType) -> Any:
    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, before those of other Cores
    return core
