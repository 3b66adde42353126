"""Runs that are killed and started again end with the weights of the run that was not."""

import json
import os
import random
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from octvideo.config import load_cfg
from octvideo.engine import CheckpointError, Preempted, checkpointer, load_checkpoint, run_train
from octvideo.engine.checkpoint import (
    best_path,
    link_checkpoint,
    list_checkpoints,
    save_checkpoint,
)
from octvideo.engine.start import start_run
from octvideo.engine.train import build_trainer
from octvideo.engine.trainer import Trainer
from support import ROOT
from support.stopping import StopAfter
from support.trainers import Trainers, die_in_a_save

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"
EVERYTHING = {
    "AUG.ENABLE": True,
    "AUG.AA_TYPE": "rand-m7-n2-mstd0.5-inc1",
    "AUG.RE_PROB": 0.5,
    "MIXUP.ENABLE": True,
    "MODEL.LOSS_FUNC": "soft_cross_entropy",
    "EMA.ENABLE": True,
    "EMA.DECAY": 0.7,
    "SOLVER.CLIP_GRAD_L2NORM": 5.0,
    "SOLVER.MAX_EPOCH": 4,
    "LOG_PERIOD": 1,
    "LOG_MODEL_INFO": False,
    "TRAIN.KEEP_CHECKPOINTS": 1,
    "TRAIN.CHECKPOINT_SECONDS": 0.3,
}


def options(tiny_opts: list[str], folder: Path, more: dict | None = None) -> list[str]:
    everything = {**EVERYTHING, **(more or {}), "OUTPUT_DIR": folder}
    return [*tiny_opts, *(str(word) for pair in everything.items() for word in pair)]


def final(folder: Path) -> dict:
    newest = list_checkpoints(folder / "checkpoints")[-1]
    assert newest.name == "checkpoint_epoch_00004.pyth"
    return load_checkpoint(newest)


def assert_same_end(folder: Path, other: Path) -> None:
    """Weights, average, optimizer, random numbers and the best file, bit for bit."""
    assert_equal(final(folder), final(other))
    ours, theirs = (load_checkpoint(best_path(f / "checkpoints")) for f in (folder, other))
    assert_equal(ours, theirs)


def assert_equal(a: object, b: object, name: str = "") -> None:
    if name == "cfg":  # OUTPUT_DIR differs
        return
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_equal(a[key], b[key], str(key))
    elif isinstance(a, list):
        assert len(a) == len(b), name
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right, name)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    else:
        assert a == b, name


@pytest.fixture(scope="module", autouse=True)
def _path():
    """What the processes import."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), before or ""])
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workers", "kills"), [(0, 20), (2, 10)])
def test_thirty_kills_at_random_moments(tiny_opts, tmp_path, workers, kills):
    loaders = {"DATA_LOADER.NUM_WORKERS": workers}
    straight = tmp_path / "straight"
    assert Trainers(CFG, options(tiny_opts, straight, loaders)).join() == [0]
    runs = 0
    while kills:
        folder = tmp_path / f"run{runs}"
        runs += 1
        while True:
            trainers = Trainers(CFG, options(tiny_opts, folder, loaders))
            if kills and random.random() < 0.8:  # else while it starts, or so
                trainers.wait_for_steps(1)
            if kills:
                time.sleep(random.uniform(0, 1.0))
                trainers.kill()
            [status] = trainers.join()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            kills -= 1
        assert_same_end(folder, straight)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_every_point_of_a_save(tiny_opts, tmp_path):
    """Each start gets one point further than the one before it."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    assert Trainers(CFG, options(tiny_opts, straight)).join() == [0]
    status, point = -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        opts = options(tiny_opts, folder, {"TRAIN.CHECKPOINT_SECONDS": 1e-6})
        [status] = Trainers(CFG, opts, prepare=die_in_a_save, args=(point,)).join()
        point += 1
        found = list_checkpoints(folder / "checkpoints")
        for path in found:
            load_checkpoint(path)  # under its name a file is whole
    assert status == 0
    assert point > 15
    assert not list((folder / "checkpoints").glob(".*"))
    assert_same_end(folder, straight)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143)])
def test_a_signal_to_every_process_of_a_job(tiny_opts, tmp_path, signum, status):
    """As SLURM sends it: to the loader workers first here, the training process needs them yet."""
    more = {"DATA_LOADER.NUM_WORKERS": 2, "TRAIN.CHECKPOINT_SECONDS": 0}
    straight, folder = tmp_path / "straight", tmp_path / "run"
    opts = options(tiny_opts, folder, more)
    trainers = Trainers(CFG, opts)
    trainers.wait_for_steps(2)
    pid = trainers.processes[0].pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signum)
    time.sleep(0.5)
    trainers.signal(signum)
    assert trainers.join() == [status]
    assert "worker" not in (folder / "stdout.log").read_text()  # none was lost
    assert Trainers(CFG, opts).join() == [0]
    assert Trainers(CFG, options(tiny_opts, straight, more)).join() == [0]
    assert_same_end(folder, straight)


# ---------------------------------------------------------------------------- in this process


def run_until(opts: list[str], checks: int) -> Trainer:
    cfg = load_cfg(CFG, opts)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(checks))
    return trainer


def start(opts: list[str]) -> Trainer:
    trainer = build_trainer(load_cfg(CFG, opts), torch.device("cpu"))
    trainer.start()
    return trainer


def stats_of(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.removeprefix("json_stats: ")) for line in lines]
    return [s for s in stats if s["_type"] == kind]


@pytest.mark.parametrize(
    "checks", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (0, 3, 5))]
)
def test_the_log_goes_on_as_if_nothing_had_been(tiny_opts, tmp_path, checks):
    """Losses and errors of log steps and epochs, those with steps before the stop as well."""
    more = {"LOG_PERIOD": 3, "SOLVER.MAX_EPOCH": 2, "TRAIN.EVAL_PERIOD": 0}
    straight, folder = tmp_path / "straight", tmp_path / "run"
    run_train(load_cfg(CFG, options(tiny_opts, straight, more)))
    opts = options(tiny_opts, folder, more)
    run_until(opts, checks)
    run_train(load_cfg(CFG, opts))
    for kind in ("train_iter", "train_epoch"):
        ours, theirs = (
            [{key: s.get(key) for key in ("epoch", "iter", "loss", "top1_err", "lr")} for s in log]
            for log in (stats_of(folder, kind), stats_of(straight, kind))
        )
        assert ours == theirs


def test_checkpoints_within_an_epoch_come_by_the_clock(tiny_opts, tmp_path):
    more = {"SOLVER.MAX_EPOCH": 1, "TRAIN.EVAL_PERIOD": 0, "TRAIN.CHECKPOINT_SECONDS": 0}
    trainer = build_trainer(load_cfg(CFG, options(tiny_opts, tmp_path, more)), torch.device("cpu"))
    trainer.checkpoints.saved_at -= 1e9
    assert not trainer.checkpoints.save_is_due()  # 0 is never
    more["TRAIN.CHECKPOINT_SECONDS"] = 1800
    trainer = build_trainer(load_cfg(CFG, options(tiny_opts, tmp_path, more)), torch.device("cpu"))
    assert not trainer.checkpoints.save_is_due()
    trainer.checkpoints.saved_at -= 1799
    assert not trainer.checkpoints.save_is_due()
    trainer.checkpoints.saved_at -= 1
    assert trainer.checkpoints.save_is_due()
    trainer.start()
    trainer.progress.step_done()
    trainer.checkpoints.saved_at -= 1e9
    trainer.checkpoints.save(best=True, due=False)
    assert trainer.checkpoints.save_is_due()  # no run goes on from the best file
    trainer.checkpoints.save()
    assert not trainer.checkpoints.save_is_due()


def test_changed_settings_of_the_optimizer_count(tiny_opts, tmp_path):
    """As the learning rate does; the log says that they have changed."""
    opts = options(tiny_opts, tmp_path, {"SOLVER.WEIGHT_DECAY": 1e-4, "SOLVER.MOMENTUM": 0.9})
    run_until(opts, 2)
    cfg = load_cfg(CFG, [*opts, "SOLVER.WEIGHT_DECAY", "0.01", "SOLVER.MOMENTUM", "0.5"])
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    groups = trainer.optimizer.param_groups
    assert {(g["weight_decay"], g["momentum"]) for g in groups} == {(0.0, 0.5), (0.01, 0.5)}
    assert trainer.optimizer.state  # the momentum itself goes on
    assert "SOLVER.MOMENTUM was 0.9, is 0.5" in (tmp_path / "stdout.log").read_text()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def replace_by_foreign_weights(path: Path) -> None:
    torch.save({"model_state": {"conv.weight": torch.zeros(3)}, "epoch": 9}, path)


def replace_by_another_network(path: Path) -> None:
    content = load_checkpoint(path)
    content["cfg"] = content["cfg"].replace("NUM_CLASSES: 8", "NUM_CLASSES: 7")
    content["spec"]["num_classes"] = 7
    torch.save(content, path)


def replace_by_another_optimizer(path: Path) -> None:
    torch.save({**load_checkpoint(path), "optimizer_state": {"param_groups": []}}, path)


def shorten_momentum(path: Path) -> None:
    """torch's fused optimizers would write behind it."""
    content = load_checkpoint(path)
    for buffers in content["optimizer_state"]["state"].values():
        buffers["momentum_buffer"] = buffers["momentum_buffer"].flatten()[:1].clone()
    torch.save(content, path)


DAMAGES = [
    shorten_momentum,
    *(truncate, replace_by_foreign_weights, replace_by_another_network),
    replace_by_another_optimizer,
]


@pytest.fixture
def stopped(tiny_opts, tmp_path) -> list[str]:
    """Options of a run that has stopped in its second epoch; TRAIN.KEEP_CHECKPOINTS is 1."""
    opts = options(tiny_opts, tmp_path / "run", {"TRAIN.CHECKPOINT_SECONDS": 1e-6})
    run_until(opts, 10)
    return opts


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_newest_file_that_is_of_no_use_costs_a_warning(stopped, tmp_path, damage):
    folder = tmp_path / "run"
    *_, before, newest = list_checkpoints(folder / "checkpoints")
    damage(newest)
    trainer = build_trainer(load_cfg(CFG, stopped), torch.device("cpu"))
    trainer.start()
    progress = load_checkpoint(before)
    assert trainer.checkpoints.newest == before
    assert trainer.progress.samples == progress["samples"]
    assert_equal(trainer.model.state_dict(), progress["model_state"])
    log = (folder / "stdout.log").read_text()
    assert f"{newest}" in log
    assert "trying the one before it" in log


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_of_which_none_is_of_use_end_the_run_and_stay(stopped, tmp_path, damage):
    paths = list_checkpoints(tmp_path / "run/checkpoints")
    for path in paths:
        damage(path)
    contents = [path.read_bytes() for path in paths]
    with pytest.raises(CheckpointError, match=paths[-1].name):
        run_train(load_cfg(CFG, stopped))
    assert [path.read_bytes() for path in paths] == contents


def test_two_kinds_of_damage(stopped, tmp_path):
    *_, oldest, before, newest = list_checkpoints(tmp_path / "run/checkpoints")
    truncate(newest)
    replace_by_foreign_weights(before)
    trainer = build_trainer(load_cfg(CFG, stopped), torch.device("cpu"))
    trainer.start()
    assert trainer.checkpoints.newest == oldest


def test_a_second_run_in_a_folder_is_resumed_and_not_the_first(tiny_opts, tmp_path):
    """The first has more epochs; also where the second was stopped before its first step."""
    folder = tmp_path / "checkpoints"
    more = {"TRAIN.EVAL_PERIOD": 1, "SOLVER.MAX_EPOCH": 2, "TRAIN.CHECKPOINT_SECONDS": 0}
    more |= {"AUG.ENABLE": False, "EMA.ENABLE": False}
    opts = options(tiny_opts, tmp_path, more)
    run_train(load_cfg(CFG, opts))
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"checkpoint_epoch_00002.pyth", "checkpoint_best.pyth"} <= first.keys()
    anew = [*opts, "TRAIN.AUTO_RESUME", "False"]
    for begin, step in ((start, 0), (lambda opts: run_until(opts, 0), 1)):
        begin(anew)
        resumed = start(opts).progress
        assert (resumed.epoch, resumed.step) == (0, step)
        assert not best_path(folder).exists()
    aside = tmp_path / "checkpoints_1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == first
    assert not (tmp_path / "checkpoints_2").exists()  # the run without a step left none


def test_another_set_of_videos_is_told(stopped, tiny_set, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val", "test"):
        rows = (tiny_set / f"{split}.csv").read_text().splitlines()
        (data / f"{split}.csv").write_text("".join(f"{tiny_set}/{row}\n" for row in rows[:-1]))
    opts = [*stopped, "DATA.PATH_TO_DATA_DIR", str(data)]
    trainer = build_trainer(load_cfg(CFG, opts), torch.device("cpu"))
    trainer.start()
    log = (tmp_path / "run/stdout.log").read_text()
    assert f"DATA.PATH_TO_DATA_DIR was {tiny_set}, is {data}" in log
    assert "23 training videos, there were 24" in log
    with pytest.raises(CheckpointError, match=r"MODEL.NUM_CLASSES was 8, is 9.*OUTPUT_DIR"):
        run_train(load_cfg(CFG, [*stopped, "MODEL.NUM_CLASSES", "9"]))


def test_the_best_file_has_the_lowest_error(tiny_opts, tmp_path, monkeypatch):
    """Validations of 50, 30, 30 and 40 percent; checkpoints after the second and fourth epoch."""
    errors = iter([50.0, 30.0, 30.0, 40.0])
    monkeypatch.setattr(
        Trainer, "_validate", lambda self, _: self.progress.record_errors(next(errors), 0.0)
    )
    more = {"TRAIN.CHECKPOINT_PERIOD": 2, "TRAIN.EVAL_PERIOD": 1}
    opts = options(tiny_opts, tmp_path, more)
    run_train(load_cfg(CFG, [*opts, "SOLVER.MAX_EPOCH", "1"]))
    best = best_path(tmp_path / "checkpoints")
    assert load_checkpoint(best)["epoch"] == 0
    run_train(load_cfg(CFG, opts))
    content = load_checkpoint(best)
    assert (content["epoch"], content["best_epoch"]) == (2, 3)
    assert content["min_errors"] == {"min_top1_err": 30.0, "min_top5_err": 0.0}
    assert load_checkpoint(tmp_path / "checkpoints/checkpoint_epoch_00004.pyth")["best_epoch"] == 3


def test_a_file_system_without_second_names(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    content = {"model_state": {"w": torch.arange(3.0)}}
    source, path = tmp_path / "checkpoint_best.pyth", tmp_path / "checkpoint_epoch_00001.pyth"
    save_checkpoint(source, content)
    link_checkpoint(source, path, content)
    assert path.read_bytes()
    assert_equal(load_checkpoint(path), load_checkpoint(source))
    assert sorted(os.listdir(tmp_path)) == [source.name, path.name]


def test_a_full_disk_ends_the_run_with_what_was_saved_before(stopped, tmp_path):
    """The system refuses files above a size, as it would without space."""
    folder = tmp_path / "run/checkpoints"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = len(before[list_checkpoints(folder)[-1].name]) // 2
    trainers = Trainers(CFG, stopped, prepare=limit_files, args=(limit,))
    assert trainers.join() == [2]
    output = (tmp_path / "run/output-0.log").read_text()
    assert re.search(r"cannot write the checkpoint .*\.pyth: File too large", output)
    assert "what was saved before is whole" in output
    assert "Traceback" not in output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_folder_that_can_not_be_written_is_told_before_any_step(tiny_opts, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be written.*OUTPUT_DIR"):
        run_train(load_cfg(CFG, options(tiny_opts, tmp_path)))
    assert not (tmp_path / "json_stats.log").exists()


# ---------------------------------------------------------------------------- two processes


TWO = {"TRAIN.BATCH_SIZE": 3}  # of each of the two


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_two_processes(tiny_opts, tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    assert Trainers(CFG, options(tiny_opts, straight, TWO), 2).join() == [0, 0]
    kills = 0
    while True:
        trainers = Trainers(CFG, options(tiny_opts, folder, TWO), 2)
        if kills < 5:
            trainers.wait_for_steps(1)
            time.sleep(random.uniform(0, 0.7))
            trainers.kill()
        if trainers.join() == [0, 0]:
            break
        kills += 1
    assert_same_end(folder, straight)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_stop_at_the_same_step_when_one_is_asked(tiny_opts, tmp_path):
    """They go on bit for bit; one process alone goes on at the right video, and says so."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    slow = {**TWO, "TRAIN.CHECKPOINT_SECONDS": 0}
    opts = options(tiny_opts, folder, slow)
    trainers = Trainers(CFG, opts, 2)
    trainers.wait_for_steps(2)
    trainers.signal(signal.SIGUSR1, rank=1)
    assert trainers.join() == [75, 75]
    newest = list_checkpoints(folder / "checkpoints")[-1]
    content = load_checkpoint(newest)
    assert len(content["rank_states"]) == 2
    random_states = [state["rng"] for state in content["rank_states"]]
    assert not torch.equal(*random_states)

    shutil.copytree(folder, tmp_path / "alone")
    alone = load_cfg(CFG, options(tiny_opts, tmp_path / "alone", {**slow, "TRAIN.BATCH_SIZE": 4}))
    trainer = build_trainer(alone, start_run(alone))
    trainer.start()
    assert (trainer.progress.epoch, trainer.progress.samples) == (
        content["epoch"] + (content["step"] == 0),
        content["samples"],
    )
    log = (tmp_path / "alone/stdout.log").read_text()
    assert "1 processes, there were 2; 4 clips a step, there were 6" in log
    assert "not be bit for bit" in log

    assert Trainers(CFG, opts, 2).join() == [0, 0]
    assert Trainers(CFG, options(tiny_opts, straight, slow), 2).join() == [0, 0]
    assert_same_end(folder, straight)


def test_more_processes_go_on_where_one_has_made_all_steps_of_an_epoch(tiny_opts, tmp_path):
    """What is left to do is to tell of the epoch, whose numbers one process has."""
    folder = tmp_path / "run"
    more = {"SOLVER.MAX_EPOCH": 1, "TRAIN.CHECKPOINT_SECONDS": 0, "TRAIN.EVAL_PERIOD": 0}
    run_until(options(tiny_opts, folder, {**more, "LOG_PERIOD": 100}), 3)
    [newest] = list_checkpoints(folder / "checkpoints")
    assert load_checkpoint(newest)["samples"] == 24
    assert Trainers(CFG, options(tiny_opts, folder, {**more, **TWO}), 2).join() == [0, 0]
    [told] = stats_of(folder, "train_epoch")
    assert 0 < told["top1_err"] <= 100


def test_a_process_that_reads_another_file_ends_all(tiny_opts, tmp_path):
    """As where nodes have folders of their own by the same name."""
    folder = tmp_path / "run"
    opts = options(tiny_opts, folder, {**TWO, "SOLVER.MAX_EPOCH": 2})
    run_until(opts, 2)
    assert Trainers(CFG, opts, 2, prepare=hide_checkpoints).join() == [2, 2]
    assert "one folder that all nodes share" in (folder / "output-0.log").read_text()


def hide_checkpoints() -> None:
    """From all but the main process."""
    load = checkpointer.load_checkpoint

    def other(path: Path) -> dict:
        content = load(path)
        return content if checkpointer.is_main() else {**content, "samples": content["samples"] + 1}

    checkpointer.load_checkpoint = other
