import os
import signal
import subprocess
import sys
import time

import pytest

from octvideo.distributed.signals import exit_status

HELPER = """
import os, sys, time
from octvideo.distributed.signals import leave_signals_to_parent
leave_signals_to_parent()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.timeout(60)
def test_a_helper_ends_when_its_parent_says_so_and_not_before():
    helper = subprocess.Popen([sys.executable, "-c", HELPER], stdout=subprocess.PIPE)
    assert helper.stdout.readline() == b"ready\n"
    assert os.getpgid(helper.pid) != os.getpgid(0)  # signals to our group do not reach it
    for name in ("HUP", "INT", "USR1", "TERM"):
        subprocess.run(["/bin/kill", f"-{name}", str(helper.pid)], check=True)
    os.kill(helper.pid, signal.SIGINT)
    time.sleep(0.2)
    assert helper.poll() is None
    helper.terminate()
    assert helper.wait(10) == 0


STARTING = """
import os, signal, sys
from octvideo.distributed.signals import leave_when_preempted
leave_when_preempted()
signals = {getattr(signal, name) for name in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # as a long import keeps Python from them
for signum in signals:
    os.kill(os.getpid(), signum)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
"""


# As train.sbatch starts it: both come before Python can take them.
BLOCKED = """
import os, signal, sys
signals = {getattr(signal, name) for name in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
for signum in signals:
    os.kill(os.getpid(), signum)
from octvideo.distributed.signals import leave_when_preempted
leave_when_preempted()
"""


@pytest.mark.parametrize("script", [STARTING, BLOCKED], ids=["starting", "blocked"])
@pytest.mark.parametrize(
    ("names", "status", "in_script"),
    [
        (["SIGUSR1"], 75, 75),
        (["SIGTERM", "SIGUSR1"], 75, 75),
        (["SIGTERM"], 143, 1),  # in a batch script less than 75: srun returns the greatest
    ],
)
def test_a_launcher_that_ends_the_others_does_not_hide_a_preemption(
    script, names, status, in_script
):
    for variable, expected in (({}, status), ({"OCTVIDEO_TERM_IS_PREEMPTION": "1"}, in_script)):
        environ = {k: v for k, v in os.environ.items() if k != "OCTVIDEO_TERM_IS_PREEMPTION"}
        run = subprocess.run(
            [sys.executable, "-c", script, *names],
            env={**environ, **variable},
            capture_output=True,
            timeout=30,
        )
        assert (run.returncode, run.stderr) == (expected, b"")


def test_preemption_has_a_status_of_its_own():
    assert exit_status(signal.SIGUSR1) == os.EX_TEMPFAIL == 75
    assert exit_status(signal.SIGINT) == 130
    assert exit_status(signal.SIGTERM) == 143


def test_a_batch_script_may_take_sigterm_for_a_preemption(monkeypatch):
    monkeypatch.delenv("OCTVIDEO_TERM_IS_PREEMPTION", raising=False)
    assert exit_status(signal.SIGTERM) == 143
    monkeypatch.setenv("OCTVIDEO_TERM_IS_PREEMPTION", "1")
    assert exit_status(signal.SIGTERM) == exit_status(signal.SIGUSR1) == 75
    assert exit_status(signal.SIGINT) == 130
