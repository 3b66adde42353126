"""``python -m octvideo`` is the command ``octvideo``."""

import sys


def main() -> int:
    """Runs the command line."""
    from octvideo.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
