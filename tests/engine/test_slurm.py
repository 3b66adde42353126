"""The batch scripts on a real SLURM cluster of two nodes, both of them this machine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support import ROOT, SHARED
from support.jobs import CFG, ENVIRON, RUN_NET, assert_same_weights, wait_for_steps, weights_of

SCRIPTS = SHARED / "slurm"

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


class Cluster:
    """Commands of SLURM; jobs run with this test's Python, and take no GPUs."""

    def __init__(self, folder: Path) -> None:
        address = {"MASTER_ADDR": "127.0.0.1", "PYTHON": sys.executable}
        self.environ = {**ENVIRON, **address, "SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *command: object) -> str:
        run = subprocess.run(
            [*map(str, command)],
            env=self.environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, f"{command[0]}: {run.stdout}{run.stderr}"
        return run.stdout.strip()

    def submit(self, script: str, log: Path, opts: list[str]) -> str:
        """One process on each node; the number of the job."""
        size = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]
        run = [f"--output={log}", f"tools/slurm/{script}.sbatch", "--cfg", CFG, "--opts", *opts]
        return self("sbatch", "--parsable", *size, *run)

    def state(self, job: str) -> dict[str, str]:
        words = self("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_again(self, job: str) -> None:
        """A requeued job waits for two minutes, in which the nodes clear up: they need seconds."""
        time.sleep(8)
        self("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait(self, job: str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Its description when the job has come to one of the states."""
        deadline = time.monotonic() + timeout
        while (described := self.state(job))["JobState"] not in states:
            assert time.monotonic() < deadline, described
            time.sleep(0.5)
        return described


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not SCRIPTS.is_dir():
        pytest.skip(f"needs {SCRIPTS}, which starts a SLURM cluster")
    if os.geteuid() != 0 or not shutil.which("slurmctld") or not shutil.which("munged"):
        pytest.skip("needs slurm-wlm, munge and root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: it holds a socket
    try:
        start = ["bash", str(SCRIPTS / "start.sh"), str(folder)]
        run = subprocess.run(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90)
        assert run.returncode == 0, run.stdout.decode()
        cluster = Cluster(folder)
        yield cluster
        subprocess.run(["scancel", "--user=root"], env=cluster.environ, timeout=30)
    finally:
        daemons = [Path("/proc", path.read_text().strip()) for path in folder.glob("run/*.pid")]
        subprocess.run(["bash", str(SCRIPTS / "stop.sh"), str(folder)], timeout=30)
        deadline = time.monotonic() + 20  # they write their state when they end
        while any(daemon.exists() for daemon in daemons) and time.monotonic() < deadline:
            time.sleep(0.1)
        shutil.rmtree(folder)


@pytest.mark.parametrize("how", [[], ["--full"]], ids=["steps", "full"])
def test_a_job_that_is_asked_to_make_room_is_requeued(
    cluster, two_node_run, job_opts, tmp_path, how
):
    log, folder = tmp_path / "log", tmp_path / "run"
    job = cluster.submit("train", log, [*job_opts, "OUTPUT_DIR", str(folder)])
    wait_for_steps(folder, 3)
    cluster("scancel", "--signal=USR1", *how, job)
    assert cluster.wait(job, "PENDING", "COMPLETED")["Restarts"] == "1"
    assert "Stopped by SIGUSR1" in log.read_text()
    cluster.start_again(job)
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", log.read_text()
    assert "Resuming from" in log.read_text()
    assert_same_weights(weights_of(folder), two_node_run)


def test_a_job_that_is_cancelled_saves_and_stays_away(cluster, job_opts, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    opts = [*job_opts, "OUTPUT_DIR", str(folder), "SOLVER.MAX_EPOCH", "200"]
    job = cluster.submit("train", log, opts)
    wait_for_steps(folder, 3)
    cluster("scancel", job)
    assert cluster.wait(job, "CANCELLED", "FAILED")["Restarts"] == "0"
    assert "Stopped by SIGTERM" in log.read_text()
    assert list((folder / "checkpoints").iterdir())


def test_a_mistake_ends_the_job_with_one_message(cluster, job_opts, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    opts = [*job_opts, "OUTPUT_DIR", str(folder), "TRAIN.BATCH_SIZE", "0"]
    described = cluster.wait(cluster.submit("train", log, opts), "FAILED", "COMPLETED")
    assert (described["JobState"], described["Restarts"]) == ("FAILED", "0")
    assert log.read_text().count("TRAIN.BATCH_SIZE must be at least 1") == 1
    assert "Traceback" not in log.read_text()


def test_a_job_of_submitit_is_requeued_and_goes_on(cluster, two_node_run, job_opts, tmp_path):
    pytest.importorskip("submitit")
    folder = tmp_path / "run"
    job = (
        cluster(
            *(cluster.environ["PYTHON"], "tools/submit.py", "--nodes", 2, "--gpus-per-node", 0),
            *("--cpus-per-task", 1, "--time", 30),
            *("--cfg", CFG, "--opts", *job_opts, "OUTPUT_DIR", folder),
        )
        .split()[1]
        .rstrip(":")
    )
    wait_for_steps(folder, 3)
    cluster("scancel", "--signal=USR1", job)
    assert cluster.wait(job, "PENDING", "COMPLETED")["Restarts"] == "1"
    cluster.start_again(job)
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    assert "Resuming from" in (folder / f"submit/{job}_0_log.out").read_text()
    assert_same_weights(weights_of(folder), two_node_run)


def test_a_test_on_two_nodes_gives_the_scores_of_one_process(cluster, job_opts, tmp_path):
    """Ten clips and three crops of each video."""
    folder = tmp_path / "run"
    more = ["SOLVER.MAX_EPOCH", "1", "TEST.NUM_ENSEMBLE_VIEWS", "10", "OUTPUT_DIR", str(folder)]
    alone = [*job_opts, *more, "TEST.ENABLE", "True", "TEST.SAVE_RESULTS_PATH", "one.npz"]
    run = subprocess.run(
        [cluster.environ["PYTHON"], RUN_NET, "--cfg", CFG, "--opts", *alone],
        env=ENVIRON,
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout
    opts = [*job_opts, *more, "TEST.SAVE_RESULTS_PATH", "two.npz"]
    job = cluster.submit("test", tmp_path / "log", opts)
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    one, two = (np.load(folder / name, allow_pickle=False) for name in ("one.npz", "two.npz"))
    assert one.files == two.files
    for key in one.files:
        if np.issubdtype(one[key].dtype, np.floating):
            np.testing.assert_allclose(two[key], one[key], rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(two[key], one[key])
    lines = (folder / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.removeprefix("json_stats: ")) for line in lines]
    first, second = (s for s in stats if s["_type"] == "test_final")
    assert first == {**second, "RAM": first["RAM"], "gpu_mem": first["gpu_mem"]}
