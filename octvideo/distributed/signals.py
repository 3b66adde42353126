"""What signals mean to the processes of a run.

A training process finishes its step, saves and exits (see ``preemption``): with status 75
(EX_TEMPFAIL) after SIGUSR1, with which SLURM announces a preemption or a time limit and after
which the run should be started again; with 128 + n after Ctrl-C, SIGTERM and SIGHUP, with which
somebody has ended it. Loader processes leave signals to their parent.
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
    """Returns the exit status of a run that a signal has stopped and that has saved its state.

    If a batch script sets OCTVIDEO_TERM_IS_PREEMPTION, SIGTERM counts as one too: the status lets
    the script distinguish a run that has saved from one that SIGTERM ended before it could.
    """
    preemptions = ["SIGUSR1"]
    if os.environ.get("OCTVIDEO_TERM_IS_PREEMPTION"):
        preemptions.append("SIGTERM")
    if signal.Signals(signum).name in preemptions:
        return PREEMPTED
    return 128 + signum


def leave_when_preempted() -> None:
    """Makes SIGUSR1 end the process with status 75 from now on: it has nothing to save yet.

    SIGUSR1 acts at once, and before SIGTERM, which a launcher sends to all processes when the first
    has exited: in the middle of an import Python may have received both, and the SIGTERM must not
    hide why the first one exited. srun returns the greatest status of all processes, so in its
    batch script, which sets OCTVIDEO_TERM_IS_PREEMPTION, SIGTERM gives the least failure status.

    The script also starts the process with both signals blocked, so that they cannot end it before
    this call.
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
    """Lets only Ctrl-C and SIGKILL end the process from now on, before it exits by itself.

    When the first process exits, launchers send SIGTERM to the others: the status that says that
    they have saved would be lost.
    """
    for signum in STOP_SIGNALS:
        if signum != signal.SIGINT:
            signal.signal(signum, signal.SIG_IGN)


def leave_signals_to_parent() -> None:
    """Makes a helper process live as long as its parent wants, whoever sends signals.

    Terminals signal the group, and SLURM every process of a job, while the parent still needs its
    helpers to finish the step. SIGTERM counts if it comes from the parent (``terminate()``).
    """
    if hasattr(os, "setsid"):
        os.setsid()
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux: says who has sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()  # not the fork server, where there is one
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == (parent.pid if parent else os.getppid()):
            os._exit(0)
