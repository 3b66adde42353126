"""Where data come from: each module here that registers a source adds a name for TRAIN.DATASET."""

import pkgutil
from importlib import import_module

from octvideo.data.sources.file_list import UNLABELLED, FileList
from octvideo.data.sources.source import Place, Source, register, source_of

__all__ = ["UNLABELLED", "FileList", "Place", "Source", "register", "source_of"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
