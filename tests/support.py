"""Paths and small helpers that several tests share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # reference data and clips; absent in an ordinary checkout
