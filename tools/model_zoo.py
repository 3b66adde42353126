#!/usr/bin/env python3
"""Writes MODEL_ZOO.md from the table of octvideo/weights/zoo.py; --check only compares."""

import argparse
import sys
from pathlib import Path

import check_install  # noqa: F401

from studies.zoo_page import zoo_page

PAGE = Path(__file__).resolve().parents[1] / "MODEL_ZOO.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="fail where the file is not up to date"
    )
    args = parser.parse_args()
    if not args.check:
        PAGE.write_text(zoo_page())
    elif not PAGE.is_file() or PAGE.read_text() != zoo_page():
        print(f"{PAGE} is not up to date: run tools/model_zoo.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
