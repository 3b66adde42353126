"""Writes what `octvideo predict` shows a network of a video: raw uint8 frames N T H W 3, RGB.

    python examples/frames.py clip.mp4 model.onnx frames.raw

The other examples read them, as they decode nothing. N is the number of views of a test.
"""

import sys
from pathlib import Path

import torch

import octvideo
from octvideo.api.predict import load_views
from octvideo.api.protocols import protocol_of
from octvideo.engine.scorer import view_batches


def write_frames(video: str, model: str, result: Path) -> None:
    """Writes the views of a video as an exported model looks at it."""
    item = load_views(video, protocol_of(octvideo.load(model)))
    views = torch.cat([*view_batches(item, item["frames"], item["size"], 8)])  # N 3 T H W
    pixels = views.round().to(torch.uint8)  # resized frames have fractions
    pixels.permute(0, 2, 3, 4, 1).contiguous().numpy().tofile(result)


if __name__ == "__main__":
    try:
        video, model, result = sys.argv[1:]
    except ValueError:
        sys.exit(__doc__)
    write_frames(video, model, Path(result))
