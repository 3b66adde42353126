"""Paths and small helpers that several tests share."""

from pathlib import Path

from octvideo.models.build import IMAGE_MODELS, list_models

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # reference data and clips; absent in an ordinary checkout
VIDEO_MODELS = [name for name in list_models() if name not in IMAGE_MODELS]
