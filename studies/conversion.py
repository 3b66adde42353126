"""What a trained network keeps when it becomes octave, after each step of the conversion.

    python -m studies.conversion clips runs/synthetic/I3D [...] --name synthetic/I3D \\
        --lines studies/results/conversion.jsonl
    python -m studies.conversion images torchvision/mobilenet_v2 --weights mobilenet_v2.pth \\
        --photos FOLDER [...] --lines studies/results/conversion.jsonl
    python -m studies.conversion table studies/results/conversion.jsonl

clips: runs of ours, on the validation clips of their own configuration, or with --test on the
clips of the test, one view of each; the steps see training clips without labels. images: a network
of torchvision (needs torch and torchvision), on every fourth photo of the folders; the steps see
random crops of the others. Each line of JSON has the arguments, the ratio of multiply-adds, and
after each step the accuracy, or the agreement of the first class with the vanilla network's where
there are no labels.

"converted" is ``octavize`` alone, "calibrated" that and ``calibrate``, "refit" that and ``refit``.
"distilled 20" is 20 steps of ``distill`` behind that, with fixed batch norms.
"""

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octvideo import calibrate, distill, load, octavize, refit, summary
from octvideo.utils.markdown import markdown_table
from studies.lines import append_line, commit, read_lines

ALPHAS = (0.125, 0.25, 0.5)
LEARNING_RATE = 0.002  # of distillation
STEPS = ("vanilla", "converted", "calibrated", "refit", "distilled 20", "distilled 100")
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Task:
    """A trained network, inputs to learn from, and how well another network does."""

    name: str
    seed: int
    model: nn.Module
    batches: list[Tensor]
    measure: Callable[[nn.Module], float]
    kind: str  # "accuracy" or "agreement", in percent


def convert(
    task: Task, alpha: float, choose: str, steps: Sequence[int], refit_batches: int
) -> dict[str, object]:
    """Converts a network step by step; returns what it scores after each."""
    example = task.batches[0][:1]
    begin = time.monotonic()
    octave = octavize(
        task.model, alpha, example=example, choose=choose, batches=task.batches[:5]
    ).eval()
    scores = {"vanilla": task.measure(task.model), "converted": task.measure(octave)}
    scores["calibrated"] = task.measure(calibrate(copy.deepcopy(octave), task.batches))
    if refit_batches:
        refit(octave, task.model, task.batches[:refit_batches])
        scores["refit"] = task.measure(octave)
    for count in steps:
        student = copy.deepcopy(octave)
        fixed = refit_batches > 0
        distill(student, task.model, task.batches, count, lr=LEARNING_RATE, fixed_norms=fixed)
        if not fixed:
            calibrate(student, task.batches)
        scores[f"distilled {count}"] = task.measure(student)
    return {
        "network": task.name,
        "seed": task.seed,
        "alpha": alpha,
        "choose": choose,
        "kind": task.kind,
        "macs": round(summary(octave, example).ratio, 4),
        "scores": {step: round(score, 2) for step, score in scores.items()},
        "seconds": round(time.monotonic() - begin),
        "torch": torch.__version__,
    }


def clips_of_run(run: str, name: str, count: int, is_test: bool = False) -> Task:
    """Returns the network of a run of ours, with clips of its own data set."""
    from octvideo.config import load_cfg
    from octvideo.data.loader import build_test_loader, build_train_loader, build_val_loader

    cfg = load_cfg(Path(run) / "config.yaml", ["DATA_LOADER.NUM_WORKERS", 0])
    torch.manual_seed(cfg.RNG_SEED)
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
    held_out = [
        (normalised(batch["video"]), batch["label"])
        for batch in (build_test_loader if is_test else build_val_loader)(cfg)
    ]

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            right = sum((network(x).argmax(1) == y).sum().item() for x, y in held_out)
        return 100 * right / sum(len(y) for _, y in held_out)

    kind = "accuracy on the test" if is_test else "accuracy in validation"
    return Task(name, cfg.RNG_SEED, model, batches, accuracy, kind)


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

    return Task(name, 0, model, [*crops()], agreement, f"agreement on {len(held_out)} photos")


def table(lines: Path) -> str:
    """Returns the Markdown table of the lines of a file: means and ranges over the seeds."""
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in read_lines(lines):
        groups[line["network"], line["kind"], line["alpha"], line["choose"]].append(line)
    scored = {step for group in groups.values() for line in group for step in line["scores"]}
    steps = [step for step in STEPS if step in scored]
    heads = ["network, percent of", "seeds", "alpha", "multiply-adds", "low channels", *steps]
    rows = []
    for (network, kind, alpha, choose), group in sorted(groups.items()):
        cells = [f"{network}, {kind}", len({line["seed"] for line in group}), f"{alpha:g}"]
        cells += [f"{group[0]['macs']:.3f}", choose]
        for step in steps:
            scores = [line["scores"][step] for line in group if step in line["scores"]]
            cells.append(_mean_and_range(scores))
        rows.append([str(cell) for cell in cells])
    return markdown_table(heads, rows)


def _mean_and_range(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    mean = f"{sum(scores) / len(scores):.1f}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):.1f} to {max(scores):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clips, images, show = (commands.add_parser(name) for name in ("clips", "images", "table"))
    clips.add_argument("runs", nargs="+")
    clips.add_argument("--name", required=True, help="what the lines call the network")
    clips.add_argument("--test", action="store_true", help="measure on the clips of the test")
    images.add_argument("name")
    images.add_argument("--weights", required=True)
    images.add_argument("--photos", nargs="+", required=True)
    show.add_argument("lines", type=Path)
    for command in (clips, images):
        command.add_argument("--lines", type=Path, required=True, help="JSON lines are added to it")
        command.add_argument("--alphas", type=float, nargs="+", default=ALPHAS)
        command.add_argument("--choose", nargs="+", default=["first", "smooth"])
        command.add_argument("--steps", type=int, nargs="*", default=[20], help="of distillation")
        command.add_argument("--batches", type=int, default=20)
        command.add_argument(
            "--refit-batches", type=int, default=10, help="for refit, of those; 0: none"
        )
    args = parser.parse_args()
    if args.command == "table":
        print(table(args.lines))
        return
    if args.command == "clips":
        tasks = (clips_of_run(run, args.name, args.batches, args.test) for run in args.runs)
    else:
        tasks = iter([photos_for(args.name, args.weights, args.photos, args.batches)])
    origin = _origin(args)
    for task in tasks:
        print(f"{task.name}: vanilla {task.measure(task.model):.2f} %", file=sys.stderr)
        for alpha in args.alphas:
            for choose in args.choose:
                line = convert(task, alpha, choose, args.steps, args.refit_batches) | origin
                print(json.dumps(line), flush=True)
                append_line(args.lines, line)


def _origin(args: argparse.Namespace) -> dict[str, str]:
    """Returns what made a line: the command, without paths of this machine, and the code."""
    words = ["python -m studies.conversion", args.command, args.name]
    for option in ("alphas", "choose", "steps"):
        words += [f"--{option}", *(f"{value}" for value in getattr(args, option))]
    words += ["--batches", f"{args.batches}", "--refit-batches", f"{args.refit_batches}"]
    words += ["--test"] if getattr(args, "test", False) else []
    return {
        "command": " ".join(words),
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


if __name__ == "__main__":
    main()
