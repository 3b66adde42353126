"""Measures whether octavized networks of other libraries run as fast as our built-in ones.

    python -m studies.octavize_speed --rounds 15

Prints for each pair the median times of a batch of one on one thread, and the medians of ratios.
Both networks have the same octave layers. They take turns, so that other load of the machine slows
both. They are timed as they are and after ``optimize_for_inference``.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from octvideo import create_model, octavize, optimize_for_inference, summary
from octvideo.utils.complexity import count
from studies.octavize_networks import networks

ALPHA = 0.25
PAIRS = {
    "torchvision/resnet50": ("resnet50_v1b", {}),
    "torchvision/mobilenet_v2": None,  # ours has other widths
    "pytorchvideo/slow_r50": ("slow_r50", {"octave_stages": (2, 3, 4)}),  # as octavize's default
}


def models(name: str) -> tuple[dict[str, nn.Module], Tensor]:
    """Returns the networks of a pair, and an input."""
    network = next(network for network in networks() if network.name == name)
    x = network.inputs(1, network.full)
    vanilla = network.build(network.full)
    octavized = octavize(vanilla, ALPHA, example=x)
    found = {"octavized": octavized, "vanilla": vanilla}
    twin = PAIRS[name]
    if twin is not None:
        own = found["built-in"] = create_model(twin[0], octave_alpha=ALPHA, **twin[1])
        costs = summary(octavized, x).macs, count(own, tuple(x.shape)).macs
        if costs[0] != costs[1]:
            raise SystemExit(f"{name}: not the same network, of {costs} multiply-adds")
    for key, model in list(found.items()):
        found[f"{key}, optimized"] = optimize_for_inference(model.eval(), example=x)
    return found, x


@torch.inference_mode()
def seconds(pair: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Returns the times of each network, after one pass that does not count."""
    times: dict[str, list[float]] = {key: [] for key in pair}
    for turn in range(rounds + 1):
        for key in sorted(pair, reverse=turn % 2 == 0):
            started = time.process_time()
            pair[key](x)
            if turn:
                times[key].append(time.process_time() - started)
    return times


def main() -> None:
    """Prints a line for each pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=[*PAIRS], metavar="NETWORK")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        times = seconds(*models(name), args.rounds)
        print(name, {key: round(1000 * statistics.median(t), 1) for key, t in times.items()}, "ms")
        for end in ("", ", optimized"):
            for other in ("vanilla", "built-in")[: 1 + (PAIRS[name] is not None)]:
                pairs = zip(times[f"octavized{end}"], times[f"{other}{end}"], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                print(f"    octavized / {other}{end}: {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
