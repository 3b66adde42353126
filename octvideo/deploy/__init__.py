"""Networks as files that run without octvideo, and such files in place of a network."""

from octvideo.deploy.files import FORMATS, format_of, is_exported
from octvideo.deploy.network import ExportedNetwork, open_exported
from octvideo.deploy.record import Record
from octvideo.deploy.write import export_network

__all__ = [
    "FORMATS",
    "ExportedNetwork",
    "Record",
    "export_network",
    "format_of",
    "is_exported",
    "open_exported",
]
