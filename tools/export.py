#!/usr/bin/env python3
"""The same as ``octvideo export``, from a clone."""

import sys

import check_install  # noqa: F401

from octvideo.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("export"))
