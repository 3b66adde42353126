"""The command ``octvideo``: one subcommand for each task, in a module of the same name.

A module is imported when its subcommand is used. Each has ``parse_args(words, prog)`` and
``main(words, prog)``, which returns the exit status; nothing heavy is imported before the words
are parsed, so that ``--help`` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType

import octvideo

COMMANDS = {
    "run": "train and test a network",
    "predict": "recognise what happens in videos",
    "features": "write what the last layer of a network sees",
    "prepare": "make the lists of a data set and check its videos",
    "synthetic": "make the synthetic action videos or images",
    "convert": "convert a checkpoint of another project",
    "octavize": "make a trained network octave, and report what it cost",
    "export": "write a network as ONNX, OpenVINO or torch.export",
    "quantize": "write an exported network in int8",
    "benchmark": "measure speed, memory and multiply-adds",
    "zoo": "list the pretrained networks",
    "config": "print a configuration or all keys",
    "submit": "send a run to SLURM",
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the subcommand that the command line names; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    commands = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="octvideo",
        description="Video action recognition with Octave Convolution.",
        epilog=f"commands:\n{commands}\n\noctvideo COMMAND --help explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"octvideo {octvideo.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    command = parser.parse_args(words[:1]).command
    return run_command(command, words[1:], f"octvideo {command}")


def run_command(command: str, words: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs one subcommand; ``words`` and ``prog`` are by default those of the command line."""
    return run_module(f"octvideo.cli.{command}", words, prog)


def run_module(module: str, words: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs ``main(words, prog)`` of a module that is imported now; returns the exit status."""
    sys.excepthook = _end_quietly
    try:
        status: int = import_module(module).main(words, prog)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads the output has seen enough, as `head` has. Nothing is to be written any more,
        # nor by Python at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as a shell says it of a program that SIGPIPE ended
    return status


def _end_quietly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Ends the program without a traceback where Ctrl-C interrupted it, as during an import.

    Packages may turn the interrupt of their import into an error of their own.
    """
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, KeyboardInterrupt):
        reason = reason.__cause__ or reason.__context__
    if reason is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)  # half-finished imports must not print while Python shuts down
