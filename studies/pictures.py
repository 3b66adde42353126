"""The pictures of the documents, drawn from the code that they explain.

Usage: python -m studies.pictures --out docs/images [--run runs/synthetic/C2D]
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from octvideo import create_model
from octvideo.data.protocol import Protocol
from octvideo.data.sampling import crop_offsets
from octvideo.data.synthetic.scenes import ACTIONS, render_clip
from octvideo.utils.complexity import count
from octvideo.weights.zoo import zoo_entries
from studies.drawing import GREY, HIGH, INK, LOW, Drawing

ROOT = Path(__file__).resolve().parents[1]


def draw_operator(path: Path) -> None:
    """Draws Eq. 4 of the paper: four paths between two frequencies, and the weight they share."""
    page = Drawing(960, 350, "An octave convolution: four paths and one weight")
    for x, name in ((36, "x"), (592, "y")):
        _draw_maps(page, x, 42, 100, HIGH, f"{name}_H")
        _draw_maps(page, x + 25, 228, 50, LOW, f"{name}_L")
    page.text(90, 186, "(1 - alpha) C channels, H x W", size=12, fill=GREY)
    page.text(90, 322, "alpha C channels, H/2 x W/2", size=12, fill=GREY)

    # The two paths within a frequency.
    page.arrow((152, 76), (292, 76), HIGH)
    _draw_step(page, 340, 76, "W_HH", HIGH)
    page.arrow((388, 76), (525, 90), HIGH)
    page.arrow((126, 268), (292, 268), LOW)
    _draw_step(page, 340, 268, "W_LL", LOW)
    page.arrow((388, 268), (525, 256), LOW)
    # The two paths between the frequencies: they cross.
    page.arrow((152, 118), (186, 130), HIGH)
    page.arrow((126, 246), (186, 216), LOW)
    page.arrow((282, 142), (392, 204), HIGH)
    page.arrow((282, 204), (392, 142), LOW)
    _draw_step(page, 234, 136, "avg pool, 2", HIGH)
    _draw_step(page, 234, 210, "W_LH", LOW)
    _draw_step(page, 440, 210, "W_HL", HIGH)
    _draw_step(page, 440, 136, "upsample, 2", LOW)
    page.arrow((488, 126), (526, 104), LOW)
    page.arrow((488, 220), (526, 242), HIGH)
    for y, end in ((95, 590), (250, 615)):
        page.circle(538, y, 13, fill="#ffffff")
        page.text(538, y + 6, "+", size=18)
        page.arrow((551, y), (end, y), INK)

    _draw_weight(page, 772, 90, 120, 45)
    page.write(path)


def _draw_maps(page: Drawing, x: float, y: float, side: float, colour: str, name: str) -> None:
    """Draws a stack of three feature maps."""
    for k in (2, 1, 0):
        page.rect(x + 6 * k, y + 6 * (2 - k), side, side, stroke=colour, fill="#ffffff")
    page.rect(x, y + 12, side, side, stroke=colour, fill=colour, opacity=0.15)
    page.text(x + side / 2, y + 18 + side / 2, name, size=18, bold=True, fill=colour)


def _draw_step(page: Drawing, x: float, y: float, words: str, colour: str) -> None:
    page.rect(x - 48, y - 15, 96, 30, stroke=colour, fill="#ffffff", radius=6)
    if words.startswith("W_"):
        page.text(x, y + 5, "conv", anchor="end")
        page.text(x + 5, y + 5, words, anchor="start")
    else:
        page.text(x, y + 5, words)


def _draw_weight(page: Drawing, x: float, y: float, side: float, low: float) -> None:
    """Draws the one weight, low channels first: rows are outputs, columns inputs."""
    high = side - low
    for column, row, width, height, colour, name in (
        (0, 0, low, low, LOW, "W_LL"),
        (low, 0, high, low, HIGH, "W_HL"),
        (0, low, low, high, LOW, "W_LH"),
        (low, low, high, high, HIGH, "W_HH"),
    ):
        page.rect(x + column, y + row, width, height, fill=colour, opacity=0.2)
        page.text(x + column + width / 2, y + row + height / 2 + 5, name)
    page.text(x + side / 2, y - 38, "one weight", size=15, bold=True)
    page.text(x + side / 2, y - 22, "columns: inputs, L, then H", size=12, fill=GREY)
    page.text(x + side / 2, y + side + 20, "rows: outputs, L, then H", size=12, fill=GREY)
    page.text(x + side / 2, y + side + 40, "same shape and number of", size=12)
    page.text(x + side / 2, y + side + 56, "parameters as the vanilla layer", size=12)


def draw_actions(path: Path, side: int = 72, num_frames: int = 5) -> None:
    """Draws frames of the eight synthetic actions; an action and its reversal share a row."""
    label, gap, margin = 124, 2, 8
    block = label + num_frames * (side + gap)
    sheet = Image.new("RGB", (2 * (block + margin), 4 * (side + gap) + 2 * margin), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, action in enumerate(ACTIONS):
        pair, twin = divmod(index, 2)
        x, y = margin + twin * block, margin + pair * (side + gap)
        # At five frames a second the eye sees the motion from frame to frame.
        frames = render_clip(pair + 2, action, num_frames, side, side, fps=5)
        pen.text((x + label - 8, y + side / 2), action, fill=INK, font=font, anchor="rm")
        for k, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (x + label + k * (side + gap), y))
    palette = sheet.quantize(96, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


def draw_views(path: Path) -> None:
    """Draws the 30 views of a ten-second video: 10 clips of 8 x 8 frames, 3 crops of each."""
    length, fps, clips = 300, 30.0, 10
    views = Protocol(num_frames=8, sampling_rate=8, num_clips=clips).view_indices(length, fps)
    page = Drawing(900, 300, "The 30 views of a video: 10 clips in time, 3 crops in space")
    left, scale, top = 70.0, 1.6, 44
    page.text(left + length * scale / 2, 24, "10 clips of 8 frames, every 8th", bold=True)
    for row, indices in enumerate(views):
        y = top + 20 * row
        x0, x1 = (left + scale * float(indices[k]) for k in (0, -1))
        page.text(left - 12, y + 5, f"clip {row}", size=12, anchor="end", fill=GREY)
        page.line((left, y), (left + length * scale, y), stroke="#e4e7eb")
        page.line((x0, y), (x1, y), stroke=HIGH, width=2)
        for index in indices:
            page.circle(left + scale * float(index), y, 3.5, fill=HIGH, stroke=HIGH)
    for second in range(0, 11, 2):
        x = left + second * fps * scale
        page.line((x, top + 196), (x, top + 204), stroke=GREY)
        page.text(x, top + 222, f"{second} s", size=12, fill=GREY)

    height, width, crop = 256, 340, 256
    x, y, scale = 610, 70, 0.75
    page.text(x + width * scale / 2, 24, "3 crops of 256 x 256 from each", bold=True)
    page.rect(x, y, width * scale, height * scale, stroke=GREY, fill="#f6f8fa")
    offsets = crop_offsets(height, width, crop, 3)
    for k, ((_, offset), colour) in enumerate(zip(offsets, (HIGH, INK, LOW), strict=True)):
        x0 = x + offset * scale
        page.rect(x0, y + 6 * k - 6, crop * scale, height * scale, stroke=colour, dashed=True)
        page.text(x0 + 8, y + 30 + 18 * k, f"crop {k}", size=12, anchor="start", fill=colour)
    page.text(x + width * scale / 2, y + height * scale + 34, "frame, short side 256", size=12)
    page.write(path)


def draw_costs(path: Path) -> None:
    """Draws the paper's accuracy on Kinetics-400 over our multiply-adds of one 224 x 224 clip."""
    page = Drawing(900, 380, "Accuracy in the paper over multiply-adds counted here")
    left, bottom, low_x, low_y = 80.0, 330.0, 15.0, 71.5

    def place(gmacs: float, top1: float) -> tuple[float, float]:
        return left + (gmacs - low_x) * 26, bottom - (top1 - low_y) * 58

    for top1 in range(72, 77):
        x, y = place(low_x, top1)
        page.line((x, y), (x + 580, y), stroke="#e4e7eb")
        page.text(x - 10, y + 5, str(top1), size=12, anchor="end", fill=GREY)
    for gmacs in range(15, 36, 5):
        x, _ = place(gmacs, 0)
        page.line((x, bottom), (x, bottom + 6), stroke=GREY)
        page.text(x, bottom + 22, str(gmacs), size=12, fill=GREY)
    page.text(left + 260, bottom + 42, "10⁹ multiply-adds of a clip, counted by octvideo", size=13)
    page.text(left - 60, 26, "top-1 %, reported in the paper (30 views)", size=13, anchor="start")

    colours = (HIGH, LOW, "#5a8f3d", "#9b4f96", "#b03a2e")
    for row, (name, points) in enumerate(_costs().items()):
        colour, places = colours[row], [place(gmacs, top1) for _, gmacs, top1 in points]
        page.line(*places, stroke=colour, width=2)
        for (alpha, *_), (x, y) in zip(points, places, strict=True):
            page.circle(x, y, 5, fill=colour if alpha else "#ffffff", stroke=colour)
            page.text(x + 8, y - 8, f"{alpha:g}", size=11, anchor="start", fill=colour)
        y = 80 + 24 * row
        page.line((680, y), (706, y), stroke=colour, width=2)
        page.text(714, y + 5, name, size=13, anchor="start")
    page.text(680, 220, "open circle: vanilla (alpha 0)", size=12, anchor="start", fill=GREY)
    page.text(680, 238, "number: alpha", size=12, anchor="start", fill=GREY)
    page.write(path)


def _costs() -> dict[str, list[tuple[float, float, float]]]:
    """Returns (alpha, 1e9 multiply-adds, top-1 %) of the networks of Table 6, by family."""
    families: dict[str, list[tuple[float, float, float]]] = {}
    for entry in zoo_entries():
        if entry.origin != "paper" or entry.data != "Kinetics-400" or entry.top1 is None:
            continue
        with torch.device("meta"):
            model = create_model(entry.model, entry.num_classes, **entry.options)
        macs = count(model, (1, 3, entry.num_frames, 224, 224)).macs
        kind = entry.model.split("_")
        name = {"i3d": "I3D", "c2d": "C2D", "slowfast": "SlowFast 4x16"}[kind[0]]
        name += " + NL" * ("nln" in kind) + ", from ImageNet" * ("IN1K" in entry.config)
        alpha = float(entry.options.get("octave_alpha", 0))
        families.setdefault(name, []).append((alpha, macs / 1e9, entry.top1))
    return {name: sorted(points) for name, points in families.items()}


def draw_speed(path: Path) -> None:
    """Draws the times of one clip in the first table of docs/PERFORMANCE.md."""
    rows = _times(ROOT / "docs" / "PERFORMANCE.md")
    page = Drawing(900, 40 + 21 * len(rows), "Inference on one CPU core: milliseconds of one clip")
    scale, left = 0.5, 250.0
    for row, (model, alpha, variant, milliseconds) in enumerate(rows):
        y = 30 + 21 * row
        is_eager = variant == "conv3d_eager"
        colour = GREY if is_eager else HIGH if alpha == 0 else LOW
        words = (
            "torch's Conv3d" if is_eager else f"alpha {alpha:g}" if alpha else "octvideo, vanilla"
        )
        if is_eager:
            page.text(16, y + 12, model.replace("_", " "), size=13, anchor="start", bold=True)
        page.text(left - 10, y + 12, words, size=12, anchor="end")
        page.rect(left, y, milliseconds * scale, 15, fill=colour, stroke=colour, opacity=0.6)
        page.text(
            left + milliseconds * scale + 8, y + 12, f"{milliseconds:g} ms", size=12, anchor="start"
        )
    page.write(path)


def _times(page: Path) -> list[tuple[str, float, str, float]]:
    """Returns (model, alpha, variant, milliseconds) from the page's first table."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("| model |"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        model, alpha, variant, _, milliseconds, *_ = (x.strip() for x in line.strip("|").split("|"))
        rows.append((model, float(alpha), variant, float(milliseconds)))
    return rows


PICTURES: dict[str, Callable[[Path], None]] = {
    "operator.svg": draw_operator,
    "actions.png": draw_actions,
    "views.svg": draw_views,
    "costs.svg": draw_costs,
    "speed.svg": draw_speed,
}


OF_A_RUN = "confusion_matrix.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--run", type=Path, help="a run of the demo, for its confusion matrix")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw(args.out / name)
        print(args.out / name)
    if args.run:
        shutil.copy(args.run / OF_A_RUN, args.out)
        print(args.out / OF_A_RUN)


if __name__ == "__main__":
    main()
