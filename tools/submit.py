#!/usr/bin/env python3
"""Sends a run to SLURM by submitit, with the options of tools/run_net.py after those of the job.

    python tools/submit.py --nodes 4 --gpus-per-node 8 --partition gpu --time 24:00:00 \\
        --cfg configs/Kinetics/OCT_I3D_8x8.yaml --opts OUTPUT_DIR runs/oct

One process a GPU. Before its time limit, and before a preemption of which the cluster tells by
SIGUSR1, the run saves and the job goes back into the queue. --local runs it here instead.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import check_install  # noqa: F401
import run_net

from octvideo.distributed.signals import PREEMPTED
from octvideo.utils.errors import UserError
from octvideo.utils.extras import install_command

RUN_NET = Path(__file__).resolve().with_name("run_net.py")
SIGNAL = "USR1"  # submitit's own choice, SIGUSR2, would end the processes below it


class Run:
    """A process of the job: tools/run_net.py, and its return to the queue."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(RUN_NET), *self.words])
        while (status := self._status()) is None:
            time.sleep(0.5)  # submitit handles the signal here, and calls checkpoint()
        if status == PREEMPTED:
            if os.environ.get("SLURM_PROCID", "0") == "0":
                signal.raise_signal(getattr(signal, f"SIG{SIGNAL}"))
            time.sleep(600)  # until the job is requeued, which ends this process
        if status:
            raise RuntimeError(f"{RUN_NET.name} ended with status {status}; see its log")

    def checkpoint(self) -> Any:
        """Called by submitit in the first process: what to run when the job starts again."""
        from submitit.helpers import DelayedSubmission

        if self._status() is None:
            self.process.send_signal(getattr(signal, f"SIG{SIGNAL}"))
        while self._status() is None:
            time.sleep(0.1)
        return DelayedSubmission(Run(self.words))

    def _status(self) -> int | None:
        """Of the process, when it has ended. ``Popen`` may not be asked within a handler."""
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return None if ended is None else ended.si_status


def minutes(text: str) -> int:
    """Of SLURM's notations of a time: minutes, H:M:S, D-H:M:S and so on."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90, 12:00:00 or 2-00:00:00")
    days, first, second, third = (int(number or 0) for number in match.groups())
    if match[1] or match[4]:  # [days-]hours[:minutes[:seconds]]
        return (24 * days + first) * 60 + second + (third > 0)
    return first + (second > 0)  # minutes[:seconds]


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the job, and the words for run_net.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="default: %(default)s")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="default: %(default)s; 0: CPU")
    add("--cpus-per-task", type=int, default=12, metavar="N", help="default: %(default)s")
    add("--time", type=minutes, default="24:00:00", help="limit, as in SLURM; default: %(default)s")
    add("--partition", metavar="NAME", help="of the cluster; default: SLURM's own")
    add("--account", metavar="NAME", help="that pays for the job; default: SLURM's own")
    add("--qos", metavar="NAME", help="quality of service; default: SLURM's own")
    add("--constraint", metavar="FEATURE", help="of the nodes; default: any node")
    add("--mem", help="memory of a node, such as 480GB")
    add("--name", default="octvideo", help="of the job; default: %(default)s")
    add("--folder", type=Path, help="for logs and submitit's files; default: OUTPUT_DIR/submit")
    add("--local", action="store_true", help="run on this machine, without SLURM")
    words = sys.argv[1:] if argv is None else argv
    split = words.index("--cfg") if "--cfg" in words else None
    args = parser.parse_args(words[:split])
    if split is None:
        parser.error("--cfg and what follows it are those of tools/run_net.py, and come last")
    return args, words[split:]


def submit(args: argparse.Namespace, words: list[str]) -> Any:
    """The job of submitit, sent off."""
    configurations = run_net.read(run_net.parse_args(words))  # a mistake is told now
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


def main() -> int:
    args, words = parse_args()
    try:
        job = submit(args, words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"job {job.job_id}: its log is {job.paths.stdout}")
    if args.local:
        job.wait()
        print(f"job {job.job_id}: {job.state}")
        return 0 if job.exception() is None else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
