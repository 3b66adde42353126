"""Logging: console, OUTPUT_DIR/stdout.log, json_stats lines and the report of the environment."""

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from octvideo import __version__
from octvideo.distributed.collectives import is_main
from octvideo.utils.console import PrintableFormatter
from octvideo.utils.errors import UserError

LOGGER_NAME = "octvideo"


class _Console(logging.StreamHandler):
    """Writes lines above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            line = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
            tqdm.write(line, file=self.stream)
        except OSError:
            self.handleError(record)


class _NoJson(logging.Filter):
    """Keeps json_stats lines off a terminal, where the progress bar says the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "is_json", False)


def setup_logging(output_dir: Path) -> logging.Logger:
    """Logs to the console and to ``output_dir/stdout.log``. Ranks other than 0 only log warnings.

    On a terminal the json_stats lines go to the files alone.
    """
    logger = logging.getLogger(LOGGER_NAME)
    logger.propagate = False
    close_logging()
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)
    console = _Console(sys.stdout)
    if is_terminal():
        console.addFilter(_NoJson())
    handlers: list[logging.Handler] = [console]
    if is_main():
        output_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(_log_file(output_dir / "stdout.log"))
    style = PrintableFormatter("[%(asctime)s %(levelname)s] %(message)s", "%m/%d %H:%M:%S")
    for handler in handlers:
        handler.setFormatter(style)
        logger.addHandler(handler)
    return logger


def _log_file(path: Path) -> logging.FileHandler:
    return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")


def close_logging() -> None:
    """Removes and closes the handlers of an earlier run in this process."""
    logger = logging.getLogger(LOGGER_NAME)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def is_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


def log_json_stats(stats: Mapping[str, object], output_dir: Path, to_file: bool = True) -> None:
    """Writes ``json_stats: {...}``, keys sorted, to the log and (to_file) to ``json_stats.log``.

    Numbers are rounded to five significant digits, as they are read by people too.
    """
    if not is_main():
        return
    stats = {key: _rounded(value) for key, value in stats.items()}
    line = f"json_stats: {json.dumps(stats, sort_keys=True)}"
    logging.getLogger(LOGGER_NAME).info(line, extra={"is_json": True})
    if not to_file:
        return
    path = output_dir / "json_stats.log"
    try:
        with open(path, "a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _rounded(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def environment_report(device: torch.device) -> str:
    """Returns one line: versions, device, processors."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return (
        f"octvideo {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{device.type} ({name or platform.machine()}), {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads"
    )


def memory_stats(device: torch.device) -> dict[str, str]:
    """Returns ``gpu_mem``, the peak of this process, and ``RAM``, used / all of this machine."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    stats = {"gpu_mem": f"{peak / 2**30:.2f}G"}
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = (line.split() for line in meminfo.read_text().splitlines())
        kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
        total, free = kib["MemTotal"], kib["MemAvailable"]
        stats["RAM"] = f"{(total - free) / 2**20:.2f}/{total / 2**20:.2f}G"
    return stats
