"""The data sets that a configuration may name, and what their kind means for a training run."""

from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).parents[1] / "data" / "sources"


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


class _DataSets(dict[str, DataSet]):
    """The facts by name; a module of data/sources is known by its name before it is imported."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (_SOURCES / f"{name}.py").is_file()

    def __missing__(self, name: str) -> DataSet:
        return DataSet()


# `octvideo.data.sources.register` adds to them.
DATASETS = _DataSets(kinetics=DataSet(), imagenet=DataSet(256, "images", arch="2d"))
