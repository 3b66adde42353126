"""What a source of data is, and which ones there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from octvideo.config.datasets import DATASETS, DataSet
from octvideo.data.protocol import Protocol
from octvideo.data.read.frames import Frames
from octvideo.data.sources.file_list import FileList
from octvideo.utils.errors import UserError

T = TypeVar("T")

_SOURCES: dict[str, "Source"] = {}


@dataclass(frozen=True)
class Place:
    """Where a data set is: the section DATA of a configuration, and the number of its classes.

    folder, separator and prefix: DATA.PATH_TO_DATA_DIR, PATH_LABEL_SEPARATOR and PATH_PREFIX.
    """

    folder: str
    num_classes: int
    separator: str = " "
    prefix: str = ""


class Source(ABC):
    """A kind of data set: which files it has, and how one of them is opened.

    images: the files are still images, which have one view (`Protocol.of_images`) and are changed
    in training as images are (`ImageTransform`). noun: what a file is called in messages.
    """

    images = False
    noun = "videos"

    @abstractmethod
    def list_files(self, place: Place, split: str) -> FileList:
        """Returns the files and labels of ``train``, ``val`` or ``test``.

        Raises:
            UserError: there are none, or the list is wrong; names the file and the line.
        """

    @abstractmethod
    def class_names(self, place: Place) -> list[str] | None:
        """Returns the names of the classes in the order of their labels, if the data has them."""

    @abstractmethod
    def open(self, path: str, protocol: Protocol) -> Frames:
        """Opens a file.

        Raises:
            VideoError: it cannot be read; the run leaves it out and reports it.
        """

    def read(self, path: str, protocol: Protocol, function: Callable[[Frames], T]) -> T:
        """Returns ``function(frames)`` of a file.

        Raises:
            VideoError: as of `open` and of ``function``.
        """
        with self.open(path, protocol) as frames:
            return function(frames)


def register(name: str, source: Source, facts: DataSet | None = None) -> None:
    """Makes a source known by the name that TRAIN.DATASET and TEST.DATASET give it.

    A new source is one module of `octvideo.data.sources` with the name of the data set (all of them
    are imported), or one of yours that is imported before the configuration is read. It has:

    1. a subclass of `Frames` whose `read` yields the frames of one file (or folder of frames),
       uint8 (H, W, 3), and which sets `path`, `num_frames` and `timing`. What cannot be read is a
       `VideoError`. Where an existing subclass will do, nothing is needed;
    2. a subclass of `Source` with `list_files`, `class_names` and `open`. Lists of the usual form
       come with `ListedVideos`, of which `open` alone has to be replaced;
    3. a call of ``register``, with ``facts`` if the data set is not one of videos.

    Sampling, transforms, loaders, crash-safe workers, resume, tests and result files follow.
    """
    _SOURCES[name] = source
    DATASETS.setdefault(name, facts or DataSet())


def source_of(name: str) -> Source:
    """Returns the source of a name.

    Raises:
        UserError: there is none.
    """
    if name not in _SOURCES:
        raise UserError(
            f"there is no data set {name!r}: set TRAIN.DATASET and TEST.DATASET to one of "
            f"{', '.join(sorted(_SOURCES))}"
        )
    return _SOURCES[name]
