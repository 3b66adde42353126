"""Training runs in processes of their own, cheap to start, that may be killed at any time."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "octvideo.engine", "octvideo.api", "support.trainers"])


class Trainers:
    """``world_size`` processes that train together by the options in ``opts``.

    prepare: called in each process before it begins.
    """

    def __init__(
        self,
        cfg: Path,
        opts: list[str],
        world_size: int = 1,
        prepare: Callable[..., None] | None = None,
        args: tuple[Any, ...] = (),
    ) -> None:
        self.folder = Path(opts[len(opts) - opts[::-1].index("OUTPUT_DIR")])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps_before = self.count_steps()
        meeting = self.folder / f"meeting-{time.monotonic_ns()}"
        common = (cfg, opts, world_size, meeting, prepare, args)
        self.processes = [
            CONTEXT.Process(target=_train, args=(rank, *common)) for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def count_steps(self) -> int:
        log = self.folder / "json_stats.log"
        return log.read_text().count("train_iter") if log.exists() else 0

    def wait_for_steps(self, count: int, seconds: float = 60) -> None:
        """Until that many steps have been logged, or the run has ended."""
        deadline = time.monotonic() + seconds
        while self.count_steps() < self.steps_before + count and self.is_running():
            assert time.monotonic() < deadline, "no step in time"
            time.sleep(0.01)

    def is_running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def signal(self, signum: int, rank: int = 0) -> None:
        os.kill(self.processes[rank].pid, signum)

    def kill(self) -> None:
        """One at random first, the others once they have had the time to notice."""
        for process in random.sample(self.processes, len(self.processes)):
            process.kill()
            process.join()
            time.sleep(random.uniform(0, 0.1) if len(self.processes) > 1 else 0)

    def join(self, seconds: float = 120) -> list[int]:
        """The exit statuses, -9 for a killed process."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            assert not process.is_alive(), "a process has not ended in time"
        return [process.exitcode for process in self.processes]


def _train(
    rank: int,
    cfg_path: Path,
    opts: list[str],
    world_size: int,
    meeting: Path,
    prepare: Callable[..., None] | None,
    args: tuple[Any, ...],
) -> None:
    import torch

    from octvideo.config import load_cfg
    from octvideo.distributed import collectives
    from octvideo.distributed.launcher_env import LauncherEnv
    from octvideo.distributed.signals import exit_status
    from octvideo.engine import Preempted, run_train
    from octvideo.utils.errors import UserError

    with open(meeting.with_name(f"output-{rank}.log"), "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers: as in a command
    if prepare:
        prepare(*args)
    if world_size > 1:
        store = torch.distributed.FileStore(str(meeting), world_size)
        world = LauncherEnv(rank, world_size, rank, world_size)
        collectives.start(world, store, "gloo", timedelta(seconds=60))
    try:
        run_train(load_cfg(cfg_path, opts))
    except Preempted as interruption:
        status = exit_status(interruption.signum)
    except UserError as error:
        print(error)
        status = 2
    else:
        status = 0
    sys.stdout.flush()
    # Loader workers end when they notice that this process has gone, as after a kill.
    os._exit(status)


class DieAt:
    """Kills this process at the n-th of the system calls that a save is made of.

    In the middle of a write; before and after a sync, a rename, a link and a removal.
    """

    def __init__(self, number: int) -> None:
        self.left = number

    def point(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, module: Any, name: str) -> None:
        function = getattr(module, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.point()
            result = function(*args, **kwargs)
            self.point()
            return result

        setattr(module, name, wrapper)


def die_in_a_save(number: int) -> None:
    import torch

    die, save = DieAt(number), torch.save
    for name in ("fsync", "replace", "link", "unlink"):
        die.around(os, name)

    def half(content: Any, file: Any) -> None:
        save(content, file)
        size = file.tell()
        file.truncate(size // 2)
        file.flush()
        die.point()
        file.seek(0)
        file.truncate()
        save(content, file)

    torch.save = half
