"""The first meeting of the processes of a run, and what it says of those that do not fit."""

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from octvideo.distributed.launcher_env import LauncherEnv
from octvideo.distributed.rendezvous import PeerError, PeerInfo, RunCancelled, meet_peers

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def meet(
    port: int, infos: dict[int, PeerInfo], size: int, timeout: float = 20
) -> dict[int, object]:
    """What each process gets: its store, or its error."""

    def come(rank: int) -> object:
        try:
            return meet_peers(
                LauncherEnv(rank, size, 0, 1, "localhost", port), infos[rank], timeout
            )
        except (RunCancelled, PeerError) as error:
            return error

    with ThreadPoolExecutor(len(infos)) as threads:
        return dict(zip(infos, threads.map(come, infos), strict=True))


def info(number: int = 0, **changes: object) -> PeerInfo:
    settings = {"TRAIN.BATCH_SIZE": "8", "RNG_SEED": "1"}
    return PeerInfo(
        **{"host": f"node{number}", "local_world_size": 1, "settings": settings, **changes}
    )


def test_all_come_and_agree(port):
    stores = meet(port, {rank: info(rank) for rank in range(3)}, size=3)
    stores[0].set("key", "value")
    assert [stores[rank].get("key") for rank in range(3)] == [b"value"] * 3


@pytest.mark.parametrize(
    ("odd", "message", "status"),
    [
        (
            {"settings": {"TRAIN.BATCH_SIZE": "16", "RNG_SEED": "1"}},
            "rank 1 on node1 has TRAIN.BATCH_SIZE 16 where rank 0 on node0 has 8",
            2,
        ),
        ({"local_world_size": 4}, "node0 has 1 processes, but node1 has 4", 2),
        ({"problem": "there is no file x"}, "rank 1 on node1: there is no file x", 2),
    ],
)
def test_a_process_that_does_not_fit(port, odd, message, status):
    errors = meet(port, {0: info(0), 1: info(1, **odd), 2: info(2)}, size=3)
    assert {str(error) for error in errors.values()} == {str(errors[0])}  # all know why
    assert str(errors[0]).startswith(message)
    assert all(error.status == status for error in errors.values())


def test_what_all_have_in_common_is_told_without_a_rank(port):
    infos = {rank: info(rank, problem="NUM_GPUS is 8") for rank in range(2)}
    assert str(meet(port, infos, size=2)[0]) == "NUM_GPUS is 8"


def test_processes_that_do_not_come(port):
    begin = time.monotonic()
    errors = meet(port, {0: info(0), 2: info(2)}, size=4, timeout=2)
    assert time.monotonic() - begin < 10
    message = "2 of 4 processes have come within 2 s (DIST_TIMEOUT); missing: rank 1, 3"
    assert [str(error) for error in errors.values()] == [message] * 2
    assert errors[0].status == 3


def test_rank_0_does_not_come(port):
    error = meet(port, {1: info(1)}, size=2, timeout=2)[1]
    assert isinstance(error, PeerError)
    assert f"rank 1 of 2: rank 0 did not answer at localhost:{port} within 2 s" in str(error)


SERVES = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("localhost", int(sys.argv[1]), None, True, timedelta(60), wait_for_workers=False)
store.set("peers/0", "{}")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "freezes_after",
    [pytest.param(0.0, id="before"), pytest.param(1.5, id="within", marks=pytest.mark.slow)],
)
def test_rank_0_freezes(port, freezes_after):
    """The system still accepts connections for it, and nothing ever answers."""
    command = [sys.executable, "-c", SERVES, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            timer = threading.Timer(freezes_after, process.send_signal, [signal.SIGSTOP])
            timer.start()
            if not freezes_after:
                timer.join()
            begin = time.monotonic()
            with pytest.raises(PeerError, match=r"within 2 s \(DIST_TIMEOUT\)"):
                meet_peers(LauncherEnv(1, 2, 0, 1, "localhost", port), PeerInfo("b", 1, {}), 2.0)
            assert time.monotonic() - begin < freezes_after + 2 + 5
        finally:
            process.kill()


def test_two_nodes_with_one_number(port):
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(meet, port, {0: info(0), 1: info(1)}, 3, 3)
        time.sleep(1)
        second = meet(port, {1: info(1)}, size=3)[1]
        assert "a second process says that it is rank 1 of 3" in str(second)
        assert "missing: rank 2" in str(first.result()[0])


def test_a_port_that_is_taken(port):
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        error = meet(port, {0: info(0)}, size=2)[0]
    assert f"rank 0 cannot listen at port {port}" in str(error)
