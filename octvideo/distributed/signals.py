"""What signals mean to the processes of a run.

A training process ends its step, saves and leaves (see ``engine.interrupt``): with status 75
(EX_TEMPFAIL) after SIGUSR1, by which SLURM tells of a preemption or a time limit and after which
the run should be started again; with 128 + n after Ctrl-C, SIGTERM and SIGHUP, by which somebody
has ended it. Loader processes leave signals to their parent.
"""

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress

PREEMPTED = 75

# Windows has neither of the last two.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)


def exit_status(signum: int) -> int:
    """The status with which a run leaves that was stopped by a signal and has saved its state.

    Where a batch script sets OCTVIDEO_TERM_IS_PREEMPTION, SIGTERM is one too: by its status the
    script can tell a run that has saved from a process that SIGTERM ended before it could.
    """
    preemptions = ["SIGUSR1"]
    if os.environ.get("OCTVIDEO_TERM_IS_PREEMPTION"):
        preemptions.append("SIGTERM")
    if signal.Signals(signum).name in preemptions:
        return PREEMPTED
    return 128 + signum


def leave_when_preempted() -> None:
    """From now on SIGUSR1 ends the process with status 75: it has nothing to save yet.

    At once, and before it obeys SIGTERM, which a launcher sends to all when the first has left: in
    the middle of an import Python may have got both. That SIGTERM must not hide why the first one
    left. srun returns the greatest status of all processes, so that in its batch script, which
    sets OCTVIDEO_TERM_IS_PREEMPTION, the status is the least one of a failure.

    The script also starts the process with both signals blocked, lest they end it before this.
    """
    after_term = 1 if os.environ.get("OCTVIDEO_TERM_IS_PREEMPTION") else 128 + signal.SIGTERM

    def leave(signum: int, _frame: object) -> None:
        with suppress(RuntimeError, OSError):  # it was in the middle of printing
            sys.stdout.flush()
        os._exit(after_term if signum == signal.SIGTERM else PREEMPTED)

    signums = {getattr(signal, n) for n in ("SIGUSR1", "SIGTERM") if hasattr(signal, n)}
    for signum in signums:
        signal.signal(signum, leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signums)


def leave_undisturbed() -> None:
    """From now on only Ctrl-C and SIGKILL end the process before it has left by itself.

    With the first process that leaves, launchers send SIGTERM to the others, whose status, that
    they have saved, would be lost.
    """
    for signum in STOP_SIGNALS:
        if signum != signal.SIGINT:
            signal.signal(signum, signal.SIG_IGN)


def leave_signals_to_parent() -> None:
    """For a helper process: it lives as long as its parent wants, whoever sends signals.

    Terminals signal the group, SLURM every process of a job, while the parent still needs its
    helpers to end the step. SIGTERM counts where it comes from the parent (``terminate()``).
    """
    if hasattr(os, "setsid"):
        os.setsid()
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux: tells who has sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()  # not the fork server, where there is one
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == (parent.pid if parent else os.getppid()):
            os._exit(0)
