"""The rendezvous of a run's processes: all of them arrive and agree, or the run is cancelled.

It takes place in a TCPStore of rank 0, before any process group exists, so that a message can say
in words what is wrong.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import DistError, TCPStore

from octvideo.distributed.launcher_env import LauncherEnv
from octvideo.distributed.time_limit import TimedCalls
from octvideo.utils.errors import UserError

_AGENT_KEY = "octvideo/port"


class PeerError(UserError):
    """A process did not arrive, or was lost."""


class RunCancelled(UserError):  # noqa: N818 - rank 0 reports the error
    """The run does not take place; ``status`` is the exit status of all its processes."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class PeerInfo:
    """What a process says about itself."""

    host: str
    local_world_size: int
    settings: dict[str, str]  # what all processes must agree on
    problem: str = ""  # why it cannot take part


def meet_peers(env: LauncherEnv, info: PeerInfo, timeout: float) -> TCPStore:
    """Returns the store of the run once all processes have arrived and agree.

    Args:
        timeout: seconds that processes may take to arrive.

    Raises:
        RunCancelled: with the same text in all processes that have arrived.
        PeerError: rank 0 could not be reached, or another process has the same rank.
    """
    with TimedCalls() as calls:
        return _Rendezvous(env, timeout, calls).meet(info)


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


class _Rendezvous:
    def __init__(self, env: LauncherEnv, timeout: float, calls: TimedCalls) -> None:
        self.env, self.timeout, self.calls = env, timeout, calls
        self.deadline = time.monotonic() + timeout

    def meet(self, info: PeerInfo) -> TCPStore:
        env = self.env
        try:
            store = self._open_store()
            if self.calls.ask(lambda: store.add(f"claims/{env.rank}", 1), self.timeout) > 1:
                raise PeerError(
                    f"a second process says that it is rank {env.rank} of {env.world_size}: give "
                    "each node its own SHARD_ID, and each run its own port"
                )
            self._set(store, f"peers/{env.rank}", json.dumps(asdict(info)))
            if env.rank == 0:
                verdict: tuple[str, int] | None = self._judge(store)
                store.set("verdict", json.dumps(verdict))
            else:  # rank 0 may have begun to wait somewhat later
                verdict = json.loads(self._wait(store, "verdict", self.deadline + self.timeout))
        except TimeoutError:
            raise PeerError(
                f"rank {env.rank}: rank 0 at {env.address} gave no answer within "
                f"{self.timeout:g} s (DIST_TIMEOUT); see its messages. Is it stopped, or its node "
                "off the network?"
            ) from None
        except DistError as error:
            raise PeerError(
                f"rank {env.rank}: lost rank 0 at {env.address}: {first_line(error)}"
            ) from error
        if verdict:
            if env.rank == 0:
                _let_others_read(store)
            else:
                store.add("read", 1)
            raise RunCancelled(*verdict)
        return store

    # ---------------------------------------------------------------- the store

    def _open_store(self) -> TCPStore:
        shares = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if shares and self.env.launcher == "torchrun":
            return self._beside_agent()
        return self._listen(self.env.port) if self.env.rank == 0 else self._connect()

    def _beside_agent(self) -> TCPStore:
        """Opens a store whose port the agent's store passes on.

        The agent's own store survives a restart, with the keys of all attempts. A port that is
        still the one of the last attempt does not answer, and is read again.
        """
        agent = self._connect()
        if self.env.rank == 0:
            store = self._listen(0)
            self._set(agent, _AGENT_KEY, str(store.port))
            return store
        while True:
            port = int(self._wait(agent, _AGENT_KEY, self.deadline))
            if _answers(self.env.address, port) or time.monotonic() > self.deadline:
                return self._client(port)
            time.sleep(0.2)

    def _listen(self, port: int) -> TCPStore:
        try:
            return TCPStore(
                "localhost", port, None, True, timedelta(seconds=60), wait_for_workers=False
            )
        except DistError as error:
            raise PeerError(
                f"rank 0 cannot listen at port {port} of this machine, where the others look for "
                f"it ({first_line(error)}): does another run use it, or has another node SHARD_ID "
                f"0? Set {self._port_option()}"
            ) from error

    def _connect(self) -> TCPStore:
        env, begin = self.env, time.monotonic()
        while not _answers(env.address, env.port):
            if time.monotonic() > self.deadline:
                raise PeerError(
                    f"rank {env.rank} of {env.world_size}: rank 0 did not answer at {env.address}:"
                    f"{env.port} within {time.monotonic() - begin:.0f} s (DIST_TIMEOUT): is it "
                    "running, and is this the address of its node? If not, set "
                    f"{self._port_option()}"
                )
            time.sleep(0.2)
        return self._client(env.port)

    def _client(self, port: int) -> TCPStore:
        # A frozen process accepts connections, but never answers the client's first question.
        address, limit = self.env.address, timedelta(seconds=60)
        return self.calls.ask(lambda: TCPStore(address, port, None, False, limit), self.timeout)

    def _port_option(self) -> str:
        if self.env.launcher:
            return "MASTER_ADDR and MASTER_PORT"
        return "--init_method tcp://HOST_OF_THE_FIRST_NODE:PORT"

    def _set(self, store: TCPStore, key: str, value: str) -> None:
        self.calls.ask(lambda: store.set(key, value), self.timeout)

    def _wait(self, store: TCPStore, key: str, deadline: float) -> str:
        """Returns the value of ``key``.

        Raises:
            TimeoutError: nobody has set it by ``deadline``, or the store does not answer.
        """
        while not self.calls.ask(lambda: store.check([key]), self.timeout):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.05)
        return self.calls.ask(lambda: store.get(key), self.timeout).decode()

    # ---------------------------------------------------------------- the verdict

    def _judge(self, store: TCPStore) -> tuple[str, int] | None:
        """Returns None if the run can begin, else the text and status of RunCancelled."""
        peers: dict[int, PeerInfo] = {}
        for rank in range(self.env.world_size):
            try:
                text = self._wait(store, f"peers/{rank}", self.deadline)
            except TimeoutError:
                continue
            peers[rank] = PeerInfo(**json.loads(text))
        store.add("arrived", len(peers))
        if problem := _problem(peers):
            return problem, 2
        if missing := [rank for rank in range(self.env.world_size) if rank not in peers]:
            shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            text = (
                f"{len(peers)} of {self.env.world_size} processes have come within "
                f"{self.timeout:g} s (DIST_TIMEOUT); missing: rank {shown}"
            )
            return text, 3
        return None


def _answers(address: str, port: int) -> bool:
    """Returns whether somebody listens. A TCPStore that finds nobody prints pages."""
    try:
        with socket.create_connection((address, port), timeout=5.0):
            return True
    except OSError:  # also a name that is not known (yet)
        return False


def _let_others_read(store: TCPStore) -> None:
    """Waits until the others know the verdict: the store ends with this process."""
    until = time.monotonic() + 10
    others = store.add("arrived", 0) - 1
    while store.add("read", 0) < others and time.monotonic() < until:
        time.sleep(0.05)


def _problem(peers: dict[int, PeerInfo]) -> str:
    """Returns what is wrong with the processes that have arrived, or ""."""
    if troubled := {rank: peer for rank, peer in peers.items() if peer.problem}:
        rank, peer = next(iter(troubled.items()))
        where = "" if len(troubled) == len(peers) else f"rank {rank} on {peer.host}: "
        return where + peer.problem
    main = peers[0]
    for rank, peer in peers.items():
        if peer.local_world_size != main.local_world_size:
            return (
                f"{main.host} has {main.local_world_size} processes, but {peer.host} has "
                f"{peer.local_world_size}: start the same number on every node"
            )
        for key in main.settings | peer.settings:
            mine, its = main.settings.get(key), peer.settings.get(key)
            if mine != its:
                return (
                    f"rank {rank} on {peer.host} has {key} {its} where rank 0 on {main.host} has "
                    f"{mine}: start every process with the same configuration"
                )
    return ""
