"""The world of a run as torchrun and SLURM describe it."""

import pytest

from octvideo.distributed.launcher_env import (
    LauncherEnv,
    advice_on_restarts,
    first_host,
    read_launcher_env,
)
from octvideo.utils.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
}
# As srun of SLURM 22.05 sets them for `srun -N2 --ntasks-per-node=4`.
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


def test_torchrun():
    assert read_launcher_env(TORCHRUN) == LauncherEnv(5, 8, 1, 4, "10.0.0.7", 29500, "torchrun")
    assert LauncherEnv(5, 8, 1, 4).nodes == 2


def test_torchrun_within_a_step_of_slurm_counts():
    assert read_launcher_env({**SLURM, **TORCHRUN}).launcher == "torchrun"


def test_slurm():
    world = read_launcher_env(SLURM)
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == (6, 8, 2, 4)
    assert (world.address, world.launcher) == ("gpu07", "SLURM")
    assert 1024 <= world.port < 32768  # below the ports that systems give away themselves
    assert read_launcher_env({**SLURM, "SLURM_PROCID": "0"}).port == world.port
    assert read_launcher_env({**SLURM, "SLURM_STEP_ID": "1"}).port != world.port
    assert read_launcher_env({**SLURM, "SLURM_JOB_ID": "18"}).port != world.port


def test_the_address_can_be_set():
    chosen = read_launcher_env({**SLURM, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4321"})
    assert (chosen.address, chosen.port) == ("127.0.0.1", 4321)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {"WORLD_SIZE": "1"},
    ],
    ids=["nothing", "batch script", "a step of one", "WORLD_SIZE 1"],
)
def test_alone(environ: dict[str, str]):
    assert read_launcher_env(environ) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[1-2]", "node1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("a3,b[1-4]", "a3"),
        ("rack[2-3]n[1,5]-ib", "rack2n1-ib"),
        ("gpu-07.site.org,gpu-08.site.org", "gpu-07.site.org"),
    ],
)
def test_first_host(nodes: str, first: str):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (without(TORCHRUN, "MASTER_ADDR"), "MASTER_ADDR is not set, but RANK 5, WORLD_SIZE 8"),
        (without(TORCHRUN, "LOCAL_RANK"), "LOCAL_RANK is not set"),
        (without(TORCHRUN, "RANK"), "WORLD_SIZE is 8 but RANK is not set"),
        ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT is 'http': expected a whole number"),
        ({**TORCHRUN, "RANK": "8"}, "process 8 of 8"),
        (without(SLURM, "SLURM_PROCID"), "SLURM_PROCID is not set"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4,3(x2)"}, "ask for --ntasks-per-node"),
    ],
)
def test_worlds_that_are_wrong(environ: dict[str, str], message: str):
    with pytest.raises(UserError) as caught:
        read_launcher_env(environ)
    assert message in str(caught.value)


def test_agents_that_share_their_store_are_told_what_they_lack():
    """The variables that torchrun gives to its processes."""
    environ = {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in advice_on_restarts(environ)
    for name, value in (("GROUP_WORLD_SIZE", "1"), ("TORCHELASTIC_MAX_RESTARTS", "0")):
        assert not advice_on_restarts({**environ, name: value})
    assert not advice_on_restarts({**environ, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    assert not advice_on_restarts({})
