"""Write the synthetic action set: real H.264 files in the layout of a Kinetics csv data set.

    python tools/make_synthetic.py --out data/synthetic [--train 1200 --val 160 --test 160]

Eight actions, each the time reversal of another, in several sizes, frame rates and lengths. The
same seed gives the same set. A set that is already there is left alone; an interrupted run is taken
up again by the same command.
"""

import argparse
import shlex
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from octvideo.data.synthetic import ACTIONS, make_synthetic


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/synthetic"), help="folder to fill")
    parser.add_argument("--train", type=int, default=1200, metavar="N", help="training clips")
    parser.add_argument("--val", type=int, default=160, metavar="N", help="validation clips")
    parser.add_argument("--test", type=int, default=160, metavar="N", help="test clips")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set")
    parser.add_argument("--workers", type=int, default=2, help="processes; no effect on the files")
    parser.add_argument(
        "--short-side", type=int, nargs=2, default=(64, 96), metavar=("LOW", "HIGH"),
        help="range of the shorter side, even numbers of pixels",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=(1.5, 4.0), metavar=("LOW", "HIGH"),
        help="range of the length of a clip",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic set of other settings"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        made = make_synthetic(
            args.out,
            num_train=args.train,
            num_val=args.val,
            num_test=args.test,
            seed=args.seed,
            short_side=tuple(args.short_side),
            seconds=tuple(args.seconds),
            num_workers=args.workers,
            overwrite=args.overwrite,
        )
    except KeyboardInterrupt:
        print("interrupted; the same command takes it up again", file=sys.stderr)
        return 130
    except (FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: can not write the set to {args.out}: {error}. Make room or choose another "
            f"--out, then run the same command again: finished clips are kept.",
            file=sys.stderr,
        )
        return 1
    except BrokenProcessPool as error:
        print(f"error: {error} Try again with --workers 1.", file=sys.stderr)
        return 1
    clips = f"{args.train} training, {args.val} validation and {args.test} test clips"
    print(f"{'Made' if made else 'Already there'}: {clips} of {len(ACTIONS)} actions in {args.out}")
    print(
        "Next: python tools/run_net.py --cfg configs/Synthetic/OCT_I3D.yaml "
        f"--opts DATA.PATH_TO_DATA_DIR {shlex.quote(str(args.out))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
