#!/usr/bin/env python3
"""Writes MODEL_ZOO.md."""

import sys

import check_install  # noqa: F401

from octvideo.cli.main import run_module

if __name__ == "__main__":
    sys.exit(run_module("studies.zoo_page"))
