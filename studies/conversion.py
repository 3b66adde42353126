"""What a trained network keeps when it becomes octave, after each step of the conversion.

    python -m studies.conversion clips runs/synthetic/I3D [...] --lines conversion.jsonl
    python -m studies.conversion images torchvision/mobilenet_v2 --weights mobilenet_v2.pth \\
        --photos FOLDER [...] --lines conversion.jsonl
    python -m studies.conversion table conversion.jsonl

clips: runs of ours, on the validation clips of their own configuration; the steps see training
clips without labels. images: a network of torchvision (needs torch and torchvision), on every
fourth photo of the folders; the steps see random crops of the others. Each line of JSON has the
arguments, the ratio of multiply-adds, and after each step the accuracy, or the agreement of the
first class with the vanilla network's where there are no labels.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from octvideo import calibrate, distill, load, octavize, summary

ALPHAS = (0.125, 0.25, 0.5)
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Task:
    """A trained network, inputs to learn from, and how well another network does."""

    name: str
    model: nn.Module
    batches: list[Tensor]
    measure: Callable[[nn.Module], float]
    kind: str  # "accuracy" or "agreement", in percent


def convert(task: Task, alpha: float, choose: str, placement: str, steps: int) -> dict[str, object]:
    """Converts a network step by step; returns what it scores after each."""
    example = task.batches[0][:1]
    begin = time.monotonic()
    octave = octavize(
        task.model,
        alpha,
        example=example,
        placement=placement,
        choose=choose,
        batches=task.batches[:5],
    ).eval()
    scores = {"converted": task.measure(octave)}
    calibrate(octave, task.batches)
    scores["calibrated"] = task.measure(octave)
    if steps:
        distill(octave, task.model, task.batches, steps)
        calibrate(octave, task.batches)
        scores["distilled"] = task.measure(octave)
    return {
        "network": task.name,
        "alpha": alpha,
        "choose": choose,
        "placement": placement,
        "steps": steps,
        "kind": task.kind,
        "macs": round(summary(octave, example).ratio, 4),
        "scores": {step: round(score, 2) for step, score in scores.items()},
        "seconds": round(time.monotonic() - begin),
        "torch": torch.__version__,
    }


def clips_of_run(run: str, count: int) -> Task:
    """Returns the network of a run of ours, with clips of its own data set."""
    from octvideo.config import load_cfg
    from octvideo.data.loader import build_train_loader, build_val_loader

    cfg = load_cfg(Path(run) / "config.yaml", ["DATA_LOADER.NUM_WORKERS", 0])
    model = load(run).eval()
    model.head.activation = nn.Identity()  # type: ignore[union-attr,assignment]
    shape = (1, 3, 1, 1, 1)
    mean, std = (torch.tensor(numbers).view(shape) for numbers in (cfg.DATA.MEAN, cfg.DATA.STD))

    def normalised(video: Tensor) -> Tensor:
        return (video.float() / 255 - mean) / std

    batches: list[Tensor] = []
    for batch in build_train_loader(cfg):
        batches.append(normalised(batch["video"]))
        if len(batches) == count:
            break
    held_out = [(normalised(batch["video"]), batch["label"]) for batch in build_val_loader(cfg)]

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            right = sum((network(x).argmax(1) == y).sum().item() for x, y in held_out)
        return 100 * right / sum(len(y) for _, y in held_out)

    return Task(run, model, batches, accuracy, "accuracy")


def photos_for(name: str, weights: str, folders: Sequence[str], count: int) -> Task:
    """Returns a network of torchvision with its weights, and crops of photos."""
    from PIL import Image
    from torchvision import models, transforms

    model = models.get_model(name.removeprefix("torchvision/"), weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    files = sorted(f for folder in folders for f in Path(folder).rglob("*") if f.suffix in SUFFIXES)
    finish = [
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    centre = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *finish])
    random = transforms.Compose(
        [transforms.RandomResizedCrop(224, (0.35, 1)), transforms.RandomHorizontalFlip(), *finish]
    )
    torch.manual_seed(0)

    def read(file: Path, transform: Callable[[Image.Image], Tensor]) -> Tensor:
        with Image.open(file) as image:
            return transform(image.convert("RGB"))

    def crops() -> Iterator[Tensor]:
        seen = [file for place, file in enumerate(files) if place % 4]
        for _ in range(count):
            chosen = torch.randperm(len(seen))[:16]
            yield torch.stack([read(seen[i], random) for i in chosen])

    held_out = torch.stack([read(file, centre) for file in files[::4]])

    def answers(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat([network(x).argmax(1) for x in held_out.split(16)])

    want = answers(model)

    def agreement(network: nn.Module) -> float:
        return 100 * (answers(network) == want).float().mean().item()

    return Task(name, model, [*crops()], agreement, f"agreement on {len(held_out)} photos")


def table(lines: Path) -> str:
    """Returns the Markdown table of the lines of a file."""
    rows = [
        "| network | alpha | multiply-adds | channels, placement | converted | calibrated "
        "| distilled (steps) | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for text in lines.read_text().splitlines():
        line = json.loads(text)
        scores = line["scores"]
        cells = [
            line["network"], f"{line['alpha']:g}", f"{line['macs']:.3f}",
            f"{line['choose']}, {line['placement']}",
            *(f"{scores[step]:.1f}" for step in ("converted", "calibrated")),
            f"{scores['distilled']:.1f} ({line['steps']})" if line["steps"] else "",
            line["kind"],
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clips, images, show = (commands.add_parser(name) for name in ("clips", "images", "table"))
    clips.add_argument("runs", nargs="+")
    images.add_argument("name")
    images.add_argument("--weights", required=True)
    images.add_argument("--photos", nargs="+", required=True)
    show.add_argument("lines", type=Path)
    for command in (clips, images):
        command.add_argument("--lines", type=Path, required=True, help="JSON lines are added to it")
        command.add_argument("--alphas", type=float, nargs="+", default=ALPHAS)
        command.add_argument("--choose", nargs="+", default=["first", "smooth"])
        command.add_argument("--placements", nargs="+", default=["default"])
        command.add_argument("--steps", type=int, default=100, help="of distillation")
        command.add_argument("--batches", type=int, default=40)
    args = parser.parse_args()
    if args.command == "table":
        print(table(args.lines))
        return
    if args.command == "clips":
        tasks = [clips_of_run(run, args.batches) for run in args.runs]
    else:
        tasks = [photos_for(args.name, args.weights, args.photos, args.batches)]
    for task in tasks:
        print(f"{task.name}: vanilla {task.measure(task.model):.2f} %", file=sys.stderr)
        for alpha in args.alphas:
            for choose in args.choose:
                for placement in args.placements:
                    line = convert(copy.copy(task), alpha, choose, placement, args.steps)
                    print(json.dumps(line), flush=True)
                    with args.lines.open("a") as file:
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
