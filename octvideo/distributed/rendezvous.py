"""The first meeting of the processes of a run: who does not come or disagrees ends it.

It takes place in a TCPStore of rank 0, before any process group exists, so that what is wrong
is told in words.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore

from octvideo.distributed.launcher_env import World
from octvideo.distributed.time_limit import ask
from octvideo.utils.errors import UserError

_AGENT_KEY = "octvideo/port"


class WorldError(UserError):
    """A process has not come, or was lost."""


class CalledOff(UserError):  # noqa: N818 - the error is told by rank 0
    """The run does not take place; ``status`` is the exit status of all its processes."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Sheet:
    """What a process says of itself."""

    host: str
    local_size: int
    settings: dict[str, str]  # every key that all must agree on
    problem: str = ""  # why it can not take part


def roll_call(world: World, sheet: Sheet, timeout: float) -> TCPStore:
    """The store of the run, when all have come within ``timeout`` seconds and agree.

    Raises:
        CalledOff: with the same text in all processes that have come.
        WorldError: rank 0 could not be reached, or another process has this one's number.
    """
    deadline = time.monotonic() + timeout
    try:
        store = _open_store(world, deadline, timeout)
        if ask(lambda: store.add(f"claims/{world.rank}", 1), timeout) > 1:
            raise WorldError(
                f"a second process says that it is rank {world.rank} of {world.size}: give each "
                "node its own SHARD_ID, and each run its own port"
            )
        ask(lambda: store.set(f"sheets/{world.rank}", json.dumps(asdict(sheet))), timeout)
        if world.rank == 0:
            verdict = _judge(store, world, deadline, timeout)
            store.set("verdict", json.dumps(verdict))
        else:  # rank 0 may have begun to wait somewhat later
            verdict = json.loads(_wait(store, "verdict", deadline + timeout, timeout))
    except TimeoutError:
        raise WorldError(
            f"rank {world.rank}: rank 0 at {world.address} gave no answer within {timeout:g} s "
            "(DIST_TIMEOUT); see its messages. Is it stopped, or its node off the network?"
        ) from None
    except DistError as error:
        raise WorldError(
            f"rank {world.rank}: lost rank 0 at {world.address}: {first_line(error)}"
        ) from error
    if verdict:
        if world.rank == 0:
            _let_others_read(store)
        else:
            store.add("read", 1)
        raise CalledOff(**verdict)
    return store


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# ---------------------------------------------------------------- the store


def _open_store(world: World, deadline: float, timeout: float) -> TCPStore:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and world.launcher == "torchrun":
        return _beside_agent(world, deadline, timeout)
    if world.rank == 0:
        return _listen(world.port, world)
    return _connect(world, deadline, timeout)


def _beside_agent(world: World, deadline: float, timeout: float) -> TCPStore:
    """The agent's store outlives a restart, with the keys of all attempts: it tells a port only.

    A port that is still that of the last attempt does not answer, and is asked for again.
    """
    agent = _connect(world, deadline, timeout)
    if world.rank == 0:
        store = _listen(0, world)
        ask(lambda: agent.set(_AGENT_KEY, str(store.port)), timeout)
        return store
    while True:
        port = int(_wait(agent, _AGENT_KEY, deadline, timeout))
        if _answers(world.address, port) or time.monotonic() > deadline:
            return _client(world.address, port, timeout)
        time.sleep(0.2)


def _listen(port: int, world: World) -> TCPStore:
    try:
        return TCPStore(
            "localhost", port, None, True, timedelta(seconds=60), wait_for_workers=False
        )
    except DistError as error:
        raise WorldError(
            f"rank 0 can not listen at port {port} of this machine, where the others look for it "
            f"({first_line(error)}): does another run use it, or has another node SHARD_ID 0? "
            f"Set {_port_option(world)}"
        ) from error


def _connect(world: World, deadline: float, timeout: float) -> TCPStore:
    begin = time.monotonic()
    while not _answers(world.address, world.port):
        if time.monotonic() > deadline:
            raise WorldError(
                f"rank {world.rank} of {world.size}: rank 0 did not answer at {world.address}:"
                f"{world.port} within {time.monotonic() - begin:.0f} s (DIST_TIMEOUT): is it "
                "running, and is this the address of its node? If not, set "
                f"{_port_option(world)}"
            )
        time.sleep(0.2)
    return _client(world.address, world.port, timeout)


def _client(address: str, port: int, timeout: float) -> TCPStore:
    # A frozen process accepts connections, but the first question of the client stays unanswered.
    return ask(lambda: TCPStore(address, port, None, False, timedelta(seconds=60)), timeout)


def _answers(address: str, port: int) -> bool:
    """Whether somebody listens: a TCPStore that finds nobody prints pages."""
    try:
        with socket.create_connection((address, port), timeout=5.0):
            return True
    except OSError:  # also a name that is not known (yet)
        return False


def _port_option(world: World) -> str:
    if world.launcher:
        return "MASTER_ADDR and MASTER_PORT"
    return "--init_method tcp://HOST_OF_THE_FIRST_NODE:PORT"


def _wait(store: TCPStore, key: str, deadline: float, timeout: float) -> str:
    """The value of ``key``.

    Raises:
        TimeoutError: nobody has set it by ``deadline``, or the store has been mute for ``timeout``
            seconds.
    """
    while not ask(lambda: store.check([key]), timeout):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
    return ask(lambda: store.get(key), timeout).decode()


def _let_others_read(store: TCPStore) -> None:
    """The store ends with this process: not before those that have come know the verdict."""
    until = time.monotonic() + 10
    others = store.add("come", 0) - 1
    while store.add("read", 0) < others and time.monotonic() < until:
        time.sleep(0.05)


# ---------------------------------------------------------------- the verdict


def _judge(store: TCPStore, world: World, deadline: float, timeout: float) -> dict[str, Any]:
    """{} if the run can begin, else the arguments of CalledOff."""
    sheets: dict[int, Sheet] = {}
    for rank in range(world.size):
        try:
            sheets[rank] = Sheet(**json.loads(_wait(store, f"sheets/{rank}", deadline, timeout)))
        except TimeoutError:
            continue
    store.add("come", len(sheets))
    if problem := _problem(sheets):
        return {"text": problem, "status": 2}
    if missing := [rank for rank in range(world.size) if rank not in sheets]:
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        text = (
            f"{len(sheets)} of {world.size} processes have come within {timeout:g} s "
            f"(DIST_TIMEOUT); missing: rank {shown}"
        )
        return {"text": text, "status": 3}
    return {}


def _problem(sheets: dict[int, Sheet]) -> str:
    """What is wrong with those that have come."""
    if troubled := {rank: sheet for rank, sheet in sheets.items() if sheet.problem}:
        rank, sheet = next(iter(troubled.items()))
        where = "" if len(troubled) == len(sheets) else f"rank {rank} on {sheet.host}: "
        return where + sheet.problem
    main = sheets[0]
    for rank, sheet in sheets.items():
        if sheet.local_size != main.local_size:
            return (
                f"{main.host} has {main.local_size} processes, but {sheet.host} has "
                f"{sheet.local_size}: start the same number on every node"
            )
        for key in main.settings | sheet.settings:
            mine, its = main.settings.get(key), sheet.settings.get(key)
            if mine != its:
                return (
                    f"rank {rank} on {sheet.host} has {key} {its} where rank 0 on {main.host} has "
                    f"{mine}: start every process with the same configuration"
                )
    return ""
