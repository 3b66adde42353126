"""Does octave pay? Accuracy against cost: networks, alphas, rivals at equal cost, seeds.

    python -m studies.accuracy_cost run Synthetic/HARD_I3D --lines hard.jsonl --seeds 0 1 2 \\
        [--only octave] [--opts DATA.PATH_TO_DATA_DIR ...]
    python -m studies.accuracy_cost time Synthetic/HARD_I3D --lines hard.jsonl
    python -m studies.accuracy_cost report hard.jsonl [--picture hard.png]

`run` trains and tests each network with `octvideo run` and the same schedule, and appends one JSON
line a run. Lines that are there are not made again, and an interrupted training resumes. `time`
measures all networks in turns in one process each. The networks:

    vanilla        of the configuration
    octave A       its twin at alpha A, octave to the end
    octave A, default placement   the same, with a plain last stage
    narrowed A     vanilla, of the width whose multiply-adds come closest to those of octave A
    smaller A      vanilla, of the resolution whose multiply-adds come closest to those of octave A
    widened A      octave A of 1.12 times the width: the savings, spent
    max, strided, no_h2l, no_l2h   octave 0.25 with that change (studies.ablation)

The report pairs each network with the vanilla one of the same seed, clip by clip. Its intervals
are of a bootstrap over seeds and clips (95 %).
"""

import argparse
import bisect
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.lines import Line, append_line, commit, read_lines

ALPHAS = (0.125, 0.25, 0.5)
VARIANTS = {
    "max": ("--downsample", "max"),
    "strided": ("--downsample", "strided_conv"),
    "no_h2l": ("--paths", "no_h2l"),
    "no_l2h": ("--paths", "no_l2h"),
}
DRAWS = 2000  # of the bootstrap
SEEDS = 3  # with fewer, the interval knows the clips but not the training runs: no verdict


@dataclass(frozen=True)
class Network:
    """What differs from the vanilla network of a configuration."""

    name: str
    kind: str
    alpha: float = 0.0
    opts: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()  # options of studies.ablation

    def command(self, cfg: str, seed: int, folder: Path, opts: Sequence[str]) -> list[str]:
        """Returns the words of the run, after the interpreter."""
        start = ["-m", "studies.ablation", *self.variant] if self.variant else [
            "-m", "octvideo", "run"
        ]  # fmt: skip
        own = [*self.opts, "RNG_SEED", str(seed), "OUTPUT_DIR", str(folder), *opts]
        saved = ["TEST.SAVE_RESULTS_PATH", "scores.npz", "TRAIN.ENABLE", "True"]
        return [*start, "--cfg", cfg, "--opts", *own, *saved]


def networks(cfg: str, opts: Sequence[str] = ()) -> list[Network]:
    """Returns the vanilla network of a configuration, its octave twins and their rivals."""

    def octave(alpha: float, stages: str = "[2,3,4,5]") -> tuple[str, ...]:
        return ("OCTAVE.ENABLE", "True", "OCTAVE.ALPHA", f"{alpha:g}", "OCTAVE.STAGES", stages)

    base = _load(cfg, opts)
    width, size = base.RESNET.WIDTH_PER_GROUP, base.DATA.TRAIN_CROP_SIZE
    found = [Network("vanilla", "vanilla")]
    for alpha in ALPHAS:
        found.append(Network(f"octave {alpha:g}", "octave", alpha, octave(alpha)))
        cost = macs(cfg, (*opts, *found[-1].opts))
        found.append(
            Network(
                f"octave {alpha:g}, default placement", "default", alpha, octave(alpha, "[2,3,4]")
            )
        )
        rivals: tuple[tuple[str, Callable[[int], tuple[str, ...]], Sequence[int]], ...] = (
            ("narrowed", _width, range(max(width // 2, 1), width + 1)),
            ("smaller", functools.partial(_resolution, base), range(size // 2, size + 1, 4)),
        )
        for kind, options, values in rivals:
            value = closest(values, lambda v: macs(cfg, (*opts, *options(v))), cost)  # noqa: B023
            found.append(Network(f"{kind} {alpha:g}", kind, alpha, options(value)))
    wide = (*octave(0.25), *_width(round(1.12 * width)))
    found.append(Network("widened 0.25", "widened", 0.25, wide))
    for name, variant in VARIANTS.items():
        found.append(Network(name, "variant", 0.25, octave(0.25), variant))
    return found


def closest(values: Sequence[int], cost: Callable[[int], int], wanted: int) -> int:
    """Returns the value whose cost is closest to what is wanted; the cost must rise with it."""
    above = bisect.bisect_left(values, wanted, key=cost)
    return min(values[max(above - 1, 0) : above + 1], key=lambda value: abs(cost(value) - wanted))


def _width(width: int) -> tuple[str, ...]:
    return ("RESNET.WIDTH_PER_GROUP", str(width))


def _resolution(base: Any, size: int) -> tuple[str, ...]:
    """Returns the options for the same field of view in fewer pixels."""
    scale = size / base.DATA.TRAIN_CROP_SIZE
    jitter = [math.ceil(side * scale) for side in base.DATA.TRAIN_JITTER_SCALES]
    return (
        "DATA.TRAIN_CROP_SIZE", str(size), "DATA.TEST_CROP_SIZE", str(size),
        "DATA.TRAIN_JITTER_SCALES", json.dumps(jitter),
    )  # fmt: skip


def _load(cfg: str, opts: Sequence[str]) -> Any:
    from octvideo.config import load_cfg

    return load_cfg(cfg, opts)


def macs(cfg: str, opts: Sequence[str]) -> int:
    """Returns the multiply-adds of a configuration's network for one clip."""
    return _complexity(cfg, tuple(opts))[0]


@functools.cache
def _complexity(cfg: str, opts: tuple[str, ...]) -> tuple[int, int]:
    from octvideo.api.complexity import complexity_of

    found = complexity_of(_load(cfg, opts), "")
    return found["macs"], found["params"]


def train_and_test(network: Network, cfg: str, seed: int, runs: Path, opts: Sequence[str]) -> Line:
    """Runs the product's command and returns the line of its result.

    Raises:
        subprocess.CalledProcessError: the run has failed.
    """
    folder = runs / network.name.replace(" ", "_").replace(",", "") / f"seed{seed}"
    words = network.command(cfg, seed, folder, opts)
    begin = time.monotonic()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    scores = next(folder.rglob("scores.npz"))  # a variant has a folder of its own
    with np.load(scores) as table:
        order = np.argsort(table["paths"])
        right = (table["scores"].sum(1).argmax(1) == table["labels"])[order]
    log = [json.loads(text.split("json_stats: ")[-1]) for text in _stats(scores.parent)]
    validated = [entry["top1_err"] for entry in log if entry["_type"] == "val_epoch"]
    cost, params = _complexity(cfg, (*opts, *network.opts))
    return {
        "network": network.name,
        "kind": network.kind,
        "alpha": network.alpha,
        "seed": seed,
        "macs": cost,
        "params": params,
        "test_top1": round(100 * float(right.mean()), 2),
        "val_top1": round(100 - validated[-1], 2),
        "clips": len(right),
        "right": np.packbits(right).tobytes().hex(),
        "seconds": round(time.monotonic() - begin),
        "command": " ".join(["python", *words]),
        **_made_by(),
    }


def _stats(folder: Path) -> list[str]:
    return (folder / "json_stats.log").read_text().splitlines()


def _made_by() -> Line:
    import torch

    return {
        "commit": commit(),
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# ---------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------
def _inference(cfg: str, opts: Sequence[str]) -> Callable[[], object]:
    import torch

    from octvideo import optimize_for_inference
    from octvideo.config import input_shape
    from octvideo.models import build_model

    tree = _load(cfg, opts)
    model = optimize_for_inference(build_model(tree).eval())
    clip = torch.randn(1, *input_shape(tree))

    def run() -> None:
        with torch.inference_mode():
            for _ in range(10):
                model(clip)

    return run


def _training(cfg: str, opts: Sequence[str]) -> Callable[[], object]:
    import torch

    from octvideo.config import input_shape
    from octvideo.models import build_model

    tree = _load(cfg, opts)
    model = build_model(tree).train()
    clips = torch.randn(8, *input_shape(tree))

    def run() -> None:
        model(clips).logsumexp(1).sum().backward()

    return run


def measure(cfg: str, opts: Sequence[str], rounds: int) -> Iterator[Line]:
    """Yields a line for each network: CPU time against the vanilla one, median of the rounds."""
    from studies.turns import in_turns

    timed = [n for n in networks(cfg, opts) if not n.variant]
    for what, setup, units in (("inference", _inference, 10), ("training", _training, 8)):
        times = in_turns(
            {n.name: functools.partial(setup, cfg, (*opts, *n.opts)) for n in timed}, rounds, units
        )
        for name, seconds in times.items():
            ratio = float(np.median(np.divide(seconds, times["vanilla"])))
            line = {"network": name, "measured": what, "ratio": round(ratio, 3)}
            line["ms"] = round(1000 * float(np.median(seconds)), 3)
            yield {**line, **_made_by()}


# ---------------------------------------------------------------------------------------------
# Report
# ---------------------------------------------------------------------------------------------
def bits(line: Line) -> np.ndarray:
    """Returns for each clip, in the order of paths, whether it was recognised: (clips,) bool."""
    packed = np.frombuffer(bytes.fromhex(line["right"]), np.uint8)
    return np.unpackbits(packed, count=line["clips"]).astype(bool)


def paired_difference(
    ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]
) -> tuple[float, float, float]:
    """Returns the difference of accuracy in points, and its 95 % interval.

    Args:
        ours, theirs: for each seed what `bits` gives; only seeds that both have count.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError("no seed in common")
    gain = np.stack([ours[s].astype(float) - theirs[s] for s in seeds])
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        rows = rng.integers(len(seeds), size=len(seeds))
        columns = rng.integers(gain.shape[1], size=gain.shape[1])
        draws.append(gain[rows][:, columns].mean())
    low, high = np.percentile(draws, (2.5, 97.5))
    return 100 * gain.mean(), 100 * low, 100 * high


def report(lines: Sequence[Line]) -> list[Line]:
    """Returns a row for each network: costs, mean accuracy and differences, with intervals."""
    runs = [line for line in lines if "test_top1" in line]
    times = {(n["network"], n["measured"]): n["ratio"] for n in lines if "ratio" in n}
    names = list(dict.fromkeys(line["network"] for line in runs))
    by_seed = {
        name: {line["seed"]: bits(line) for line in runs if line["network"] == name}
        for name in names
    }
    cost = {line["network"]: line["macs"] for line in runs}
    rows = []
    for name in names:
        own = [line for line in runs if line["network"] == name]
        row: Line = {
            "network": name,
            "macs": round(cost[name] / cost["vanilla"], 3),
            "inference": times.get((name, "inference")),
            "training": times.get((name, "training")),
            "seeds": len(own),
            "accuracy": round(float(np.mean([line["test_top1"] for line in own])), 2),
            "range": [min(n["test_top1"] for n in own), max(n["test_top1"] for n in own)],
        }
        rivals = {"vanilla": "vanilla", "narrowed": f"narrowed {own[0]['alpha']:g}"}
        for key, rival in rivals.items():
            if name != rival and rival in by_seed and (key == "vanilla" or own[0]["alpha"]):
                difference = paired_difference(by_seed[name], by_seed[rival])
                row[f"against_{key}"] = [round(value, 2) for value in difference]
        rows.append(row)
    return rows


def table(rows: Sequence[Line]) -> str:
    """Returns the rows of ``report`` in Markdown."""
    text = [
        "| network | multiply-adds | inference | training | seeds | top-1, % (range) "
        "| against vanilla, points | against narrowed, points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = [
            ("" if row[key] is None else f"{row[key]:.2f}") for key in ("inference", "training")
        ]
        low, high = row["range"]
        found = [row.get(f"against_{key}") for key in ("vanilla", "narrowed")]
        differences = [_difference(difference, row["seeds"]) for difference in found]
        cells = [row["network"], f"{row['macs']:.2f}", *times, str(row["seeds"])]
        cells += [f"{row['accuracy']:.1f} ({low:.1f} to {high:.1f})", *differences]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def _difference(found: Sequence[float] | None, seeds: int) -> str:
    if found is None:
        return ""
    mean, low, high = found
    verdict = "better" if low > 0 else "worse" if high < 0 else "not different"
    if seeds < SEEDS:
        verdict = "too few seeds"
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}): {verdict}"


def picture(rows: Sequence[Line], path: Path) -> None:
    """Draws accuracy against multiply-adds, and against time where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    costs = [key for key in ("macs", "inference") if all(row[key] for row in rows[:2])]
    figure, axes = pyplot.subplots(1, len(costs), figsize=(5.5 * len(costs), 4), squeeze=False)
    for axis, key in zip(axes[0], costs, strict=True):
        for kind, mark in (("vanilla", "k*"), ("octave", "o-"), ("narrowed", "s--"),
                           ("smaller", "^--"), ("widened", "D")):  # fmt: skip
            chosen = [
                row for row in rows
                if row[key] and row["network"].split()[0] == kind and "," not in row["network"]
            ]  # fmt: skip
            if chosen:
                x, y = [row[key] for row in chosen], [row["accuracy"] for row in chosen]
                bars = np.abs(np.array([row["range"] for row in chosen]).T - y)
                axis.errorbar(x, y, bars, fmt=mark, capsize=3, label=kind)
        axis.set_xlabel({"macs": "multiply-adds", "inference": "time of inference"}[key])
        axis.set_ylabel("top-1, %")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _append(path: Path, line: Line) -> None:
    append_line(path, line)
    print({key: value for key, value in line.items() if key != "right"}, flush=True)


def main() -> None:
    """Runs one of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run, timed, shown = (commands.add_parser(name) for name in ("run", "time", "report"))
    for command in (run, timed):
        command.add_argument("cfg", help="the vanilla configuration")
        command.add_argument("--lines", type=Path, required=True, help="JSON lines are added to it")
        command.add_argument("--opts", nargs=argparse.REMAINDER, default=[])
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run.add_argument("--only", nargs="+", help="kinds or names of networks; default: all")
    run.add_argument("--runs", type=Path, default=Path("runs/accuracy_cost"))
    timed.add_argument("--rounds", type=int, default=9)
    shown.add_argument("lines", type=Path)
    shown.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.command == "report":
        rows = report(read_lines(args.lines))
        print(table(rows))
        if args.picture:
            picture(rows, args.picture)
    elif args.command == "time":
        for line in measure(args.cfg, args.opts, args.rounds):
            _append(args.lines, line)
    else:
        done = {
            (n["network"], n["seed"])
            for n in read_lines(args.lines, missing_ok=True)
            if "seed" in n
        }
        runs = args.runs / args.lines.stem
        for seed in args.seeds:
            for network in networks(args.cfg, args.opts):
                wanted = not args.only or {network.kind, network.name} & set(args.only)
                if wanted and (network.name, seed) not in done:
                    _append(args.lines, train_and_test(network, args.cfg, seed, runs, args.opts))


if __name__ == "__main__":
    main()
