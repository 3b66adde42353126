"""The data sets that a configuration may name, and what their kind means for a training run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """Facts of a kind of data set.

    reference_batch: the samples a step for which SGD's SOLVER.BASE_LR is 0.1: 64 clips in
    PySlowFast's recipes, 256 images in Goyal et al., "Accurate, Large Minibatch SGD".
    samples: what a training sample is called. arch: the one MODEL.ARCH that takes them, if any.
    """

    reference_batch: int = 64
    samples: str = "clips"
    arch: str | None = None


# `octvideo.data.sources.register` adds to them.
DATASETS: dict[str, DataSet] = {
    "kinetics": DataSet(),
    "imagenet": DataSet(256, "images", arch="2d"),
}
