"""What makes any network octave: the trace of an example, the placement, and the report."""

from octvideo.surgery.octavizing import low_channels, octavize
from octvideo.surgery.refit import refit
from octvideo.surgery.report import Summary, summary
from octvideo.surgery.tuning import calibrate, distill

__all__ = ["Summary", "calibrate", "distill", "low_channels", "octavize", "refit", "summary"]
