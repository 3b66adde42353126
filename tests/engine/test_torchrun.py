"""Runs under torchrun, and as nodes that find each other by --init_method."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from support.jobs import (
    CFG,
    RUN_NET,
    TORCHRUN,
    assert_same_weights,
    children,
    descendants,
    free_port,
    results,
    started,
    wait_for_steps,
    weights_of,
)


def command(port: int, shard: int, *options: object) -> list[str]:
    nodes = ["--num_shards", 2, "--shard_id", shard, "--init_method", f"tcp://localhost:{port}"]
    return [*map(str, [sys.executable, RUN_NET, "--cfg", CFG, *nodes, "--opts", *options])]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_torchrun_restarts_a_run_whose_worker_was_killed(two_node_run, job_opts, tmp_path):
    """Two processes of one node, that share what two nodes of one have for themselves."""
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "TRAIN.BATCH_SIZE", "12"]
    agent = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", "--max-restarts", "2"]
    with started([*agent, RUN_NET, "--cfg", CFG, "--opts", *opts]) as (process,):
        wait_for_steps(tmp_path, 3)
        os.kill(_workers(process.pid)[1], signal.SIGKILL)
        [(status, output)] = results([process], 180)
    assert status == 0, output
    assert "Resuming from" in output
    assert "global batch 12 (1 x 2 processes with 6 clips each)" in output
    assert_same_weights(weights_of(tmp_path), two_node_run)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", [0, 1])
def test_two_agents_go_on_when_a_worker_was_killed(two_node_run, job_opts, tmp_path, victim):
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path)]
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{free_port()}"]
    options = ["--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3", *meeting]
    agent = [*TORCHRUN, *options, "--rdzv_id", "test", RUN_NET, "--cfg", CFG, "--opts", *opts]
    with started(agent, agent) as processes:
        wait_for_steps(tmp_path, 3)
        os.kill(_workers(processes[victim].pid)[0], signal.SIGKILL)
        ends = results(processes, 180)
    assert [status for status, _ in ends] == [0, 0], ends
    assert any("Resuming from" in output for _, output in ends)
    assert_same_weights(weights_of(tmp_path), two_node_run)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_was_lost_with_its_agent_is_replaced(two_node_run, job_opts, tmp_path):
    """As DISTRIBUTED.md has it: with the variable, and the endpoint on the node that stays."""
    opts, meeting = [*job_opts, "OUTPUT_DIR", str(tmp_path)], f"localhost:{free_port()}"

    def agent(is_host: int) -> list[str]:
        place = ["--rdzv_backend", "c10d", "--rdzv_endpoint", meeting, "--rdzv_id", "test"]
        place += ["--rdzv_conf", f"is_host={is_host}"]
        size = ["--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3"]
        run = [*TORCHRUN, *size, *place, RUN_NET, "--cfg", CFG, "--opts", *opts]
        return ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", *run]

    with started(agent(1), agent(0)) as (stays, lost):
        wait_for_steps(tmp_path, 3)
        for pid in [lost.pid, *descendants(lost.pid)]:
            os.kill(pid, signal.SIGKILL)
        with started(agent(0)) as (replacement,):
            ends = results([stays, replacement], 240)
    assert [status for status, _ in ends] == [0, 0], ends
    assert any("Resuming from" in output for _, output in ends)
    assert_same_weights(weights_of(tmp_path), two_node_run)


def _workers(agent: int) -> list[int]:
    """The training processes of an agent, by rank."""
    found = []
    for pid in children(agent):
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if ranks := [word[5:] for word in environ if word.startswith(b"RANK=")]:
            found.append((int(ranks[0]), pid))
    return [pid for _, pid in sorted(found)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nodes_that_disagree_are_told_which_key(job_opts, tmp_path):
    port, opts = free_port(), [*job_opts, "OUTPUT_DIR", str(tmp_path)]
    one, other = command(port, 0, *opts), command(port, 1, *opts, "SOLVER.BASE_LR", 0.5)
    with started(one, other) as processes:
        ends = results(processes, 90)
    assert [status for status, _ in ends] == [2, 2]
    said = "".join(output for _, output in ends)
    assert said.count("has SOLVER.BASE_LR 0.5 where rank 0") == 1
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_node_that_does_not_come(job_opts, tmp_path):
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "DIST_TIMEOUT", 3]
    with started(command(free_port(), 0, *opts), command(free_port(), 1, *opts)) as processes:
        (first, said), (second, answered) = results(processes, 90)
    assert (first, second) == (3, 3)
    assert "1 of 2 processes have come within 3 s (DIST_TIMEOUT); missing: rank 1" in said
    assert "rank 0 did not answer at localhost" in answered
    assert "Traceback" not in said + answered


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_lost_ends_the_run_of_the_other(job_opts, tmp_path, victim):
    port = free_port()
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_EPOCH", 200]
    with started(command(port, 0, *opts), command(port, 1, *opts)) as processes:
        wait_for_steps(tmp_path, 2)
        processes[victim].kill()
        ends = results(processes, 90)
    status, said = ends[1 - victim]
    assert status == 3
    assert f"rank {1 - victim} ends: another process is lost or does not answer" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_frozen_ends_the_run_of_the_other(job_opts, tmp_path, victim):
    """Its connections stay open, as where a machine vanishes; rank 0 has the store, too."""
    port = free_port()
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_EPOCH", 200, "DIST_TIMEOUT", 10]
    with started(command(port, 0, *opts), command(port, 1, *opts)) as processes:
        wait_for_steps(tmp_path, 2)
        processes[victim].send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        [(status, said)] = results([processes[1 - victim]], 60)
    assert status == 3
    assert time.monotonic() - begin < 10 + 20
    assert f"rank {1 - victim} ends: another process is lost or does not answer" in said
    assert "Traceback" not in said


LEAVES_SLOWLY = """
import sys, time
from octvideo.cli.main import run_command
from octvideo.distributed import collectives
stop, sys.argv = collectives.stop, sys.argv[1:]
collectives.stop = lambda: (time.sleep(5), stop())
sys.exit(run_command("run"))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_last_to_leave_is_not_ended_by_what_a_launcher_sends(job_opts, tmp_path):
    """As srun --kill-on-bad-exit does when the first has left; the worst status is the job's."""
    port = free_port()
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_EPOCH", 200]
    python, *words = command(port, 1, *opts)
    slow = [python, "-c", LEAVES_SLOWLY, *words]
    with started(command(port, 0, *opts), slow) as processes:
        wait_for_steps(tmp_path, 2)
        processes[0].send_signal(signal.SIGUSR1)
        assert processes[0].wait(60) == 75
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            processes[1].send_signal(signum)
        ends = results(processes, 60)
    assert [status for status, _ in ends] == [75, 75], ends


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_mistake_that_all_share_is_told_once(job_opts, tmp_path):
    opts = [*job_opts, "OUTPUT_DIR", str(tmp_path), "TRAIN.BATCH_SIZE", "5"]
    agent = [
        *TORCHRUN,
        "--standalone",
        "--nproc_per_node",
        "2",
        RUN_NET,
        "--cfg",
        CFG,
        "--opts",
        *opts,
    ]
    with started([*agent, "--opts", *opts]) as processes:
        [(status, said)] = results(processes, 90)
    assert status != 0
    problem = "TRAIN.BATCH_SIZE 5 cannot be shared among the 2 processes that torchrun started"
    assert said.count(problem) == 1
    assert "run_net.py FAILED" in said
    assert "exitcode  : 2" in said
