"""What a training on Kinetics-400 costs: the table of docs/EVIDENCE.md.

    python -m studies.kinetics_cost [--rate 10]

Multiply-adds are counted, and hours follow from the rate at which a GPU works, in 1e12
multiply-adds a second. No GPU has been measured: `octvideo benchmark train --device cuda` gives the
clips a second of one, from which `rate_of` computes its rate.
"""

import argparse

TRAINING, TEST = 240_000, 20_000  # videos, as in the paper of SlowFast (section 4)
BACKWARD = 2  # times the forward pass: the gradients of inputs and of weights
NAMES = (
    *("I3D_8x8_R50", "OCT_I3D_8x8", "OCT_I3D_8x8_A0.5"),
    *("SLOWFAST_4x16_R50", "OCT_SLOWFAST_4x16", "X3D_M", "OCT_X3D_M_A0.25"),
)


def rate_of(clips_per_second: float, macs: int) -> float:
    """Returns 1e12 multiply-adds a second of a training at so many clips a second."""
    return clips_per_second * macs * (1 + BACKWARD) / 1e12


def row(name: str, rate: float) -> list[str]:
    """Returns the cells of one configuration of ``configs/Kinetics``."""
    from octvideo.api.complexity import complexity_of
    from octvideo.config import load_cfg

    cfg = load_cfg(f"Kinetics/{name}")
    training = complexity_of(cfg, "")["macs"]
    crop = ["DATA.TRAIN_CROP_SIZE", str(cfg.DATA.TEST_CROP_SIZE)]
    view = complexity_of(load_cfg(f"Kinetics/{name}", crop), "")["macs"]
    views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    total = training * (1 + BACKWARD) * TRAINING * cfg.SOLVER.MAX_EPOCH
    test = view * views * TEST
    return [
        f"`Kinetics/{name}`", f"{training / 1e9:.1f}", str(cfg.SOLVER.MAX_EPOCH),
        f"{total / 1e18:.2f}", f"{total / rate / 1e12 / 3600:.0f}",
        f"{test / 1e18:.3f}", f"{test / rate / 1e12 / 3600:.1f}",
    ]  # fmt: skip


def table(rate: float) -> str:
    """Returns the table in Markdown."""
    lines = [
        "| configuration | 1e9 multiply-adds a clip | epochs | training, 1e18 | hours | test, 1e18 "
        "| hours |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row(name, rate))} |" for name in NAMES)])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=10.0, help="1e12 multiply-adds a second")
    print(table(parser.parse_args().rate))


if __name__ == "__main__":
    main()
