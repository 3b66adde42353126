"""Sends a run to SLURM through submitit: first the options of the job, then those of the run.

    octvideo submit --nodes 4 --gpus-per-node 8 --partition gpu --time 24:00:00 \\
        --cfg Kinetics/OCT_I3D_8x8 --opts OUTPUT_DIR runs/oct

Starts one process for each GPU. Before its time limit, and before a preemption that the cluster
announces by SIGUSR1, the run saves and the job returns to the queue. --local runs it here instead.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli import run
from octvideo.cli.options import exit_status, new_parser
from octvideo.distributed.signals import PREEMPTED
from octvideo.utils.errors import UserError
from octvideo.utils.extras import install_command

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

SIGNAL = "USR1"  # submitit's own choice, SIGUSR2, would end the processes below it


class Run:
    """One process of the job: runs ``octvideo run`` and sends the job back to the queue."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "octvideo", "run", *self.words])
        while (status := self._status()) is None:
            time.sleep(0.5)  # submitit handles the signal here, and calls checkpoint()
        if status == PREEMPTED:
            if os.environ.get("SLURM_PROCID", "0") == "0":
                signal.raise_signal(getattr(signal, f"SIG{SIGNAL}"))
            time.sleep(600)  # until the job is requeued, which ends this process
        if status:
            raise RuntimeError(f"octvideo run ended with status {status}; see its log")

    def checkpoint(self) -> "DelayedSubmission":
        """Returns what to run when the job starts again; submitit calls it in the first process."""
        from submitit.helpers import DelayedSubmission

        if self._status() is None:
            self.process.send_signal(getattr(signal, f"SIG{SIGNAL}"))
        while self._status() is None:
            time.sleep(0.1)
        return DelayedSubmission(Run(self.words))

    def _status(self) -> int | None:
        """Returns the status of the ended process. A signal handler must not use ``Popen``."""
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return None if ended is None else ended.si_status


def minutes(text: str) -> int:
    """Reads a time in SLURM's notations: minutes, H:M:S, D-H:M:S and so on."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90, 12:00:00 or 2-00:00:00")
    days, first, second, third = (int(number or 0) for number in match.groups())
    if match[1] or match[4]:  # [days-]hours[:minutes[:seconds]]
        return (24 * days + first) * 60 + second + (third > 0)
    return first + (second > 0)  # minutes[:seconds]


def parse_args(
    words: Sequence[str] | None = None, prog: str | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of the job, and the words for ``octvideo run``."""
    parser = new_parser(__doc__, prog)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="default: %(default)s")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="default: %(default)s; 0: CPU")
    add("--cpus-per-task", type=int, default=12, metavar="N", help="default: %(default)s")
    add("--time", type=minutes, default="24:00:00", help="limit, as in SLURM; default: %(default)s")
    add("--partition", metavar="NAME", help="default: SLURM's own")
    add("--account", metavar="NAME", help="account to charge; default: SLURM's own")
    add("--qos", metavar="NAME", help="quality of service; default: SLURM's own")
    add("--constraint", metavar="FEATURE", help="of the nodes; default: any node")
    add("--mem", help="memory of a node, such as 480GB")
    add("--name", default="octvideo", help="of the job; default: %(default)s")
    add("--folder", type=Path, help="logs and submitit's files; default: OUTPUT_DIR/submit")
    add("--local", action="store_true", help="run on this machine, without SLURM")
    words = sys.argv[1:] if words is None else list(words)
    split = words.index("--cfg") if "--cfg" in words else None
    args = parser.parse_args(words[:split])
    if split is None:
        parser.error("--cfg is missing; it and all that follows are passed to octvideo run")
    return args, words[split:]


def submit(args: argparse.Namespace, words: Sequence[str]) -> "Job[None]":
    """Sends the job off and returns it."""
    configurations = run.read(run.parse_args(words))  # report mistakes before the queue
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # read when submitit is imported
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"submitit is not installed: {install_command('slurm')}") from error
    folder = args.folder or Path(configurations[0].OUTPUT_DIR) / "submit"
    executor = submitit.AutoExecutor(
        folder=folder.resolve(),
        cluster="local" if args.local else "slurm",
        slurm_max_num_timeout=1000,
    )
    executor.update_parameters(name=args.name, timeout_min=args.time)
    if not args.local:
        choices = {key: getattr(args, key) for key in ("partition", "account", "qos", "constraint")}
        executor.update_parameters(
            nodes=args.nodes,
            tasks_per_node=max(1, args.gpus_per_node),
            gpus_per_node=args.gpus_per_node,
            cpus_per_task=args.cpus_per_task,
            slurm_mem=args.mem,
            slurm_signal_delay_s=120,
            slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={args.cpus_per_task}"],
            slurm_setup=[f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}"],
            **{f"slurm_{key}": value for key, value in choices.items() if value},
        )
    return executor.submit(Run(words))


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args, of_run = parse_args(words, prog)
    return exit_status(lambda: start(args, of_run))


def start(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Submits the job and, with --local, waits for its end."""
    job = submit(args, words)
    print(f"job {job.job_id}: its log is {job.paths.stdout}")
    if args.local:
        job.wait()
        print(f"job {job.job_id}: {job.state}")
        return 0 if job.exception() is None else 1
    return 0
