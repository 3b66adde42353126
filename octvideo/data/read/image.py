"""Still images: frames of files of one frame."""

import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from octvideo.data.read.frames import Frames
from octvideo.data.read.packet_index import VideoError
from octvideo.data.read.timing import Timing

# Formats of photographs: the rare ones that Pillow reads too are where its faults are found.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm")
MAX_PIXELS = 89_478_485  # Pillow's own limit, from which on it speaks of a decompression bomb
# Besides OSError, Pillow's decoders let these out where a file contradicts itself.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(VideoError):
    """An image cannot be read. `path` is the file, `reason` what is wrong with it."""


class ImageFrames(Frames):
    """An image file as a clip of one frame.

    Raises:
        ImageError: as `read_image`.
    """

    num_frames = 1
    timing = Timing(fps=1.0)

    def __init__(self, path: str) -> None:
        self.path = path
        self._pixels = np.asarray(read_image(path))

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self._pixels


def is_image(path: str) -> bool:
    """Tests whether a file is one for `read_image`, by its name or its first bytes."""
    if path.lower().endswith(ENDINGS):
        return True
    if not os.path.isfile(path):
        return False
    try:
        Image.open(path, formats=FORMATS).close()
    except _DAMAGED:
        return False
    return True


def read_image(path: str) -> Image.Image:
    """Returns the image of a file, upright (EXIF), in RGB: grey, palette and CMYK files too.

    Of 16 bits the upper 8 are taken, of an animation the first image; transparency is ignored.

    Raises:
        ImageError: no such file, no image of FORMATS, damaged, truncated or absurdly large.
    """
    if not os.path.isfile(path):  # a pipe would block
        raise ImageError(path, "is not a file" if os.path.exists(path) else "no such file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(path, f"{width}x{height} pixels, more than {MAX_PIXELS}")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ImageError(path, f"does not begin like any of {', '.join(FORMATS)}") from error
    except _DAMAGED as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, text.replace(path, "file")) from error
