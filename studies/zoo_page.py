"""Writes MODEL_ZOO.md from the table of octvideo/weights/zoo.py; --check only compares."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.utils.markdown import markdown_table
from octvideo.weights.zoo import ORIGINS, STATUSES, ZooEntry, zoo_entries

PAGE = Path(__file__).resolve().parents[1] / "MODEL_ZOO.md"
_HEAD = """# Model zoo

<!-- Written by tools/model_zoo.py from octvideo/weights/zoo.py: edit that table, not this file. -->

```python
import octvideo

octvideo.list_pretrained()
model = octvideo.load("i3d_8x8_r50_k400_pysf")
octvideo.predict("clip.mp4", model)  # [(label, score), ...]
```

`TRAIN.CHECKPOINT_FILE_PATH`, `TEST.CHECKPOINT_FILE_PATH` and `create_model(pretrained=...)` also
take a name from this page, the address of a file, or a file.

* **Other classes:** `create_model("i3d_r50", num_classes=12, pretrained=...)` starts with a new
  last layer.
* **An octave network:** `create_model("i3d_r50", octave_alpha=0.1, pretrained=...)` starts from
  the same weights, but gives meaningless predictions until it is fine-tuned; a warning says so.

A file is downloaded when it is first used, to `$OCTVIDEO_CACHE` or, if that is not set,
`$FVCORE_CACHE` or `~/.cache/octvideo`. Each address has a folder of its own there. An interrupted
download resumes where it stopped, and a damaged file is removed. On a machine without network
access, put the file there by hand; the error message names the place.
"""


def _address(entry: ZooEntry) -> str:
    return "comes with octvideo" if entry.is_packaged else f"<{entry.address}>"


def zoo_page() -> str:
    """Returns the text of MODEL_ZOO.md."""
    entries = zoo_entries()
    published = [entry for entry in entries if entry.address and not entry.is_image_network]
    parts = [
        _HEAD,
        "## With weights\n",
        _networks(published),
        "\n### Files\n",
        markdown_table(
            ["name", "address", "SHA-256", "class names"],
            [
                [f"`{e.name}`", _address(e), e.sha256 or "not known", e.class_names or "none"]
                for e in published
            ],
        ),
        _PACKAGED,
        _authors_networks([entry for entry in entries if entry.is_image_network]),
        "\nIf the SHA-256 is not known, a download is checked by its length and by loading it "
        "strictly,\nand its SHA-256 is logged.\n",
        "## Configurations without weights\n",
        _networks([entry for entry in entries if not entry.address]),
        "\n## Terms\n",
        *(f"* {word}: {meaning}." for word, meaning in {**ORIGINS, **STATUSES}.items()),
        "\nA clip of `8x8` has 8 frames, every 8th at 30 frames per second. Views are clips x "
        "crops of a video.\n",
    ]
    return "\n".join(parts)


_PACKAGED = """
### Networks that come with octvideo

`i3d_synthetic`, `oct_i3d_synthetic` and `c2d_synthetic` have 0.14 M parameters each and need no
download. They are for trying octvideo.

* **Data:** eight drawn actions, `octvideo synthetic` with seed 0; 1,200 clips for training.
* **Recipe:** `octvideo run --cfg Synthetic/OCT_I3D` (`Synthetic/I3D`, `Synthetic/C2D`), seed 0,
  five epochs on a CPU. The file is `checkpoint_best.pyth` after `octvideo convert`.
* **Figures:** top-1 above, 30 views of 160 test clips, by the same command. The classes are pairs
  of an action and its time reversal, which C2D cannot tell apart.
* **Limits:** they know drawings only; their scores for real videos mean nothing. One seed.
* **Licence:** Apache-2.0, as octvideo.

### Hand gestures: a recipe without weights

The terms of SHREC'17 do not settle whether weights trained on it may be passed on, so there are
none here. [EVIDENCE.md](docs/EVIDENCE.md#hand-gestures-shrec17) has the recipe of a pair: an octave
I3D that recognises 83.5 % of the test (mean of three seeds), and its vanilla twin, 80.6 %.
`studies/results/accuracy_shrec17.jsonl` has command, seed, commit and result of each run. This
trains the octave one:

```bash
octvideo run --cfg SHREC17/OCT_I3D_CPU --opts OCTAVE.STAGES "[2,3,4,5]"
```
"""
_AUTHORS = """
### The image networks of the paper's authors

These are the checkpoints of facebookresearch/OctConv (MIT licence), trained on ImageNet-1k with
MXNet. octvideo reads them as they are published, without MXNet, and gives the same logits as
MXNet:

```python
model = octvideo.create_model("resnet50_v2", pretrained="oct_resnet50_v2_a0.125_in1k_mxnet")
model.eval()(images)  # (N, 3, 224, 224), normalised -> probabilities (N, 1000)
model.protocol.mean, model.protocol.std  # how to normalise images in [0, 1]
```

To test the same network on ImageNet:

```bash
octvideo run --cfg ImageNet/OCT_RESNET50_A0.125 --opts \\
    DATA.PATH_TO_DATA_DIR imagenet  TRAIN.ENABLE False  NUM_GPUS 1 \\
    TEST.CHECKPOINT_FILE_PATH oct_resnet50_v2_a0.125_in1k_mxnet
```

Accuracies are the authors', in percent, from one centre crop of 224 from a short side of 256.
"""


def _authors_networks(entries: list[ZooEntry]) -> str:
    header = ["name", "model", "alpha", "configuration", "top-1", "top-5", "address", "SHA-256"]
    rows = [
        [
            *(f"`{e.name}`", f"`{e.model}`", str(e.options["octave_alpha"]), f"`{e.config}`"),
            *(str(e.top1), str(e.top5), f"<{e.address}>", e.sha256 or "not known"),
        ]
        for e in entries
    ]
    return f"{_AUTHORS}\n{markdown_table(header, rows)}"


def _networks(entries: list[ZooEntry]) -> str:
    header = ["name", "configuration", "data"]
    header += ["clip", "views", "top-1", "top-5", "origin", "status"]
    rows = [[f"`{e.name}`", f"`{e.config}`", e.data, *_numbers(e), e.status] for e in entries]
    return markdown_table(header, rows)


def _numbers(entry: ZooEntry) -> list[str]:
    """Returns clip, views, top-1, top-5 and origin."""
    if entry.inflate:
        return ["1 image", "", "", "", ""]
    return [
        f"{entry.num_frames}x{entry.sampling_rate}",
        f"{entry.num_clips}x{entry.num_crops}",
        "" if entry.top1 is None else f"{entry.top1:.1f}",
        "" if entry.top5 is None else f"{entry.top5:.1f}",
        entry.origin or "",
    ]


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    text = "fail if the file is not up to date"
    parser.add_argument("--check", action="store_true", help=text)
    args = parser.parse_args(words)
    if not args.check:
        PAGE.write_text(zoo_page())
    elif not PAGE.is_file() or PAGE.read_text() != zoo_page():
        print(f"{PAGE} is not up to date: run tools/model_zoo.py", file=sys.stderr)
        return 1
    return 0
