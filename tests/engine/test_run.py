"""Training and testing on real mp4 files, in this process and as the command that users type."""

import csv
import json
import os
import pickle
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from octvideo.config import load_cfg
from octvideo.data import VideoReader
from octvideo.engine import (
    CheckpointError,
    Preempted,
    launch,
    load_checkpoint,
    run_test,
    run_train,
)
from octvideo.engine.checkpoint import list_checkpoints, save_checkpoint
from octvideo.engine.jobs import build_job
from octvideo.engine.start import start_run
from octvideo.engine.train import build_trainer
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from support import ROOT
from support.commands import run_tool
from support.jobs import assert_same_weights
from support.stopping import StopAfter
from support.trainers import Trainers

COMMAND = [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg"]
CFG = str(ROOT / "configs/Synthetic/OCT_I3D.yaml")


def stats_of(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.removeprefix("json_stats: ")) for line in lines]
    return [s for s in stats if s["_type"] == kind]


def weights_of(cfg) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
    return load_checkpoint(newest)["model_state"]


def with_opts(opts: list[str], *more: object):
    return load_cfg(CFG, [*map(str, [*opts, *more])])


def test_training_writes_what_users_expect(tiny_opts):
    cfg = with_opts(tiny_opts, "TENSORBOARD.ENABLE", True)
    run_train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    names = [path.name for path in list_checkpoints(folder / "checkpoints")]
    assert names == ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]
    content = load_checkpoint(folder / "checkpoints" / names[-1])
    assert content["epoch"] == 1  # counted from 0, as PySlowFast does
    assert {"model_state", "optimizer_state", "cfg", "scaler_state"} <= content.keys()
    assert "ALPHA: 0.25" in content["cfg"]
    steps = stats_of(folder, "train_iter")
    assert [(s["epoch"], s["iter"]) for s in steps] == [
        *[("1/2", "2/4"), ("1/2", "4/4"), ("2/2", "2/4"), ("2/2", "4/4")],
    ]
    wanted = {"dt", "dt_data", "dt_net", "loader_bound", "eta", "loss", "lr", "grad_norm"}
    wanted |= {"gpu_mem", "top1_err"}
    assert all(wanted <= s.keys() and list(s) == sorted(s) for s in steps)
    assert [s["epoch"] for s in stats_of(folder, "train_epoch")] == ["1/2", "2/2"]
    last = stats_of(folder, "val_epoch")[-1]
    assert last["num_videos"] == 8
    assert last["min_top1_err"] <= last["top1_err"]
    assert list(folder.glob("runs-kinetics/events*"))
    assert "json_stats" in (folder / "stdout.log").read_text()
    assert load_cfg(folder / "config.yaml") == cfg


@pytest.mark.slow
def test_tensorboard_forgets_the_steps_that_a_killed_run_makes_again(tiny_opts):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = with_opts(tiny_opts, "TENSORBOARD.ENABLE", True, "LOG_PERIOD", 1)
    newest = run_train(cfg)
    newest.unlink()  # as if the run had been killed before it: the first epoch is what it goes on
    run_train(cfg)
    events = EventAccumulator(str(Path(cfg.OUTPUT_DIR) / "runs-kinetics")).Reload()
    assert [event.step for event in events.Scalars("Train/loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(stats_of(Path(cfg.OUTPUT_DIR), "train_iter")) == 12  # a log is never cut


def test_loss_falls_on_a_set_that_is_learnt_by_heart(tiny_opts):
    more = ["SOLVER.MAX_EPOCH", 12, "MODEL.DROPOUT_RATE", 0, "TRAIN.EVAL_PERIOD", 0]
    cfg = with_opts(tiny_opts, *more, "TRAIN.CHECKPOINT_PERIOD", 12)
    run_train(cfg)
    losses = [s["loss"] for s in stats_of(Path(cfg.OUTPUT_DIR), "train_epoch")]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


@pytest.fixture(scope="module")
def straight(tiny_words, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights at the end of a run by ``tiny_opts`` that nothing has disturbed."""
    cfg = with_opts(tiny_words, "OUTPUT_DIR", tmp_path_factory.mktemp("straight"))
    run_train(cfg)
    return weights_of(cfg)


@pytest.mark.parametrize("checks", [0, 2, 3, 4, 5, 6, 9])
def test_a_stopped_run_goes_on_to_the_same_weights(tiny_opts, straight, checks):
    """Wherever it stops: in a step, in precise batch norm, in validation, in the second epoch."""
    cfg = with_opts(tiny_opts)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(checks))
    assert list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")
    torch.manual_seed(99)  # what the checkpoint does not bring would show
    run_train(cfg)
    assert_same_weights(weights_of(cfg), straight)
    assert not list(Path(cfg.OUTPUT_DIR).glob("checkpoints/*step*"))


def test_an_interrupted_validation_is_made_up_for(tiny_opts):
    """Its place is before the checkpoint of the epoch, which holds its errors."""
    cfg = with_opts(tiny_opts, "BN.USE_PRECISE_STATS", False)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(4))  # the first batch after the four steps
    assert not stats_of(Path(cfg.OUTPUT_DIR), "val_epoch")
    path = run_train(cfg)
    assert [s["epoch"] for s in stats_of(Path(cfg.OUTPUT_DIR), "val_epoch")] == ["1/2", "2/2"]
    errors = [s["top1_err"] for s in stats_of(Path(cfg.OUTPUT_DIR), "val_epoch")]
    stored = load_checkpoint(path)["min_errors"]["min_top1_err"]
    assert stored == pytest.approx(min(errors), abs=0.01)


def test_another_network_does_not_go_on_where_one_of_the_same_shapes_stopped(tiny_opts):
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1)
    run_train(cfg)
    for change in (["OCTAVE.ALPHA", 0.5], ["OCTAVE.ENABLE", False]):
        with pytest.raises(CheckpointError, match=rf"{change[0]} was .*OUTPUT_DIR"):
            run_train(with_opts(tiny_opts, *change))
    assert load_cfg(Path(cfg.OUTPUT_DIR) / "config.yaml") == cfg
    with pytest.raises(CheckpointError, match=r"SOLVER\.OPTIMIZING_METHOD was sgd, is adamw"):
        run_train(with_opts(tiny_opts, "SOLVER.OPTIMIZING_METHOD", "adamw"))
    run_test(with_opts(tiny_opts, "OCTAVE.ALPHA", 0.5))  # a feature, but it is told
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "trained as another network: OCTAVE.ALPHA was 0.25, is 0.5" in log


def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch(tiny_opts):
    cfg = with_opts(tiny_opts)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(1))
    assert (trainer.progress.step, trainer.progress.samples) == (2, 12)  # of 4, with 6 clips each
    again = with_opts(tiny_opts, "TRAIN.BATCH_SIZE", 3)
    trainer = build_trainer(again, start_run(again))
    trainer.start()
    assert (trainer.progress.epoch, trainer.progress.samples) == (0, 12)
    assert (trainer.progress.steps_per_epoch, trainer.progress.steps_done) == (8, 4)
    assert trainer.progress.position == 0.5
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "TRAIN.BATCH_SIZE was 6, is 3" in log
    assert "3 clips a step, there were 6: the run resumes at video 12" in log


def test_weights_without_a_run_are_not_continued(tiny_opts):
    cfg = with_opts(tiny_opts)
    path = Path(cfg.OUTPUT_DIR) / "checkpoints" / "checkpoint_epoch_00003.pyth"
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    with pytest.raises(CheckpointError, match=r"TRAIN\.CHECKPOINT_FILE_PATH"):
        run_train(cfg)


@pytest.mark.parametrize("log_period", [1, 100])
def test_a_loss_that_is_lost_ends_the_run_before_it_is_saved(tiny_opts, log_period):
    cfg = with_opts(tiny_opts, "SOLVER.BASE_LR", 1e30, "LOG_PERIOD", log_period)
    with pytest.raises(UserError, match=r"the loss is (nan|inf).*SOLVER\.BASE_LR"):
        run_train(cfg)
    assert not list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")


def test_the_test_after_training_is_of_what_was_trained(tiny_opts):
    run_train(with_opts(tiny_opts))
    cfg = with_opts(tiny_opts, "TRAIN.AUTO_RESUME", False, "SOLVER.MAX_EPOCH", 1)
    path = run_train(cfg)
    run_test(cfg, path)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "checkpoints of an earlier run" in log
    assert log.rsplit("Testing ", 1)[1].split()[0].endswith("checkpoint_epoch_00001.pyth")


def test_parts_of_a_batch_add_up_to_its_gradient(tiny_opts):
    """Without batch norm in the way (evaluation mode), two halves give the step of the whole."""

    def weights_after_a_step(parts: int) -> torch.Tensor:
        cfg = with_opts(tiny_opts, "TRAIN.ACCUMULATE_STEPS", parts, "MODEL.HEAD_ACT", "none")
        torch.manual_seed(0)
        trainer = build_trainer(cfg, torch.device("cpu"))
        trainer.model.eval()
        batch = next(iter(trainer.train_loader))
        batch["video"], batch["label"] = batch["video"][:5], batch["label"][:5]  # one was lost
        trainer.train_step(batch)
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    torch.testing.assert_close(weights_after_a_step(2), weights_after_a_step(1))


def test_gradient_clipping_bounds_the_step(tiny_opts):
    cfg = with_opts(tiny_opts, "SOLVER.CLIP_GRAD_L2NORM", 1e-3)
    trainer = build_trainer(cfg, torch.device("cpu"))
    trainer.train_step(next(iter(trainer.train_loader)))
    grads = [p.grad.flatten() for p in trainer.model.parameters()]
    assert torch.cat(grads).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert trainer.step.update.grad_norm() > 1e-2  # what is logged is the norm before


def build_variant(cfg) -> torch.nn.Module:
    """A network of a study, for which the configuration has no key."""
    model = build_model(cfg)
    model.s1.register_buffer("variant", torch.ones(1))
    return model


def test_a_study_trains_and_tests_a_network_of_its_own(tiny_opts):
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1)
    job = pickle.loads(pickle.dumps(build_job(cfg, build_variant)))  # as spawned processes get it
    job.check()
    job.run()
    newest = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
    assert load_checkpoint(newest)["model_state"]["s1.variant"] == 1
    assert len(stats_of(Path(cfg.OUTPUT_DIR), "test_final")) == 1


def naive_view(path: Path, clip: int, crop: int, cfg) -> torch.Tensor:
    """One view as contracts describe it: whole frames to float, resize, crop."""
    with VideoReader(str(path)) as reader:
        span = cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE * reader.fps / cfg.DATA.TARGET_FPS
        start = max(reader.num_frames - span, 0) * clip / cfg.TEST.NUM_ENSEMBLE_VIEWS
        indices = torch.linspace(start, start + span - 1, cfg.DATA.NUM_FRAMES)
        frames = reader.get_frames(indices.clamp(0, reader.num_frames - 1).long().tolist())
    video = torch.from_numpy(frames).float().div(255).sub(0.45).div(0.225).permute(0, 3, 1, 2)
    h, w = video.shape[-2:]
    short = cfg.DATA.TEST_CROP_SIZE
    size = (short, int(w / h * short)) if h <= w else (int(h / w * short), short)
    if min(h, w) != short:
        video = F.interpolate(video, size, mode="bilinear", align_corners=False)
    long = max(video.shape[-2:])
    offset = (0, -((short - long) // 2), long - short)[crop]
    top, left = (offset, 0) if video.shape[-2] > short else (0, offset)
    return video[..., top : top + short, left : left + short].transpose(0, 1)


def test_the_score_table_is_that_of_views_read_one_by_one(tiny_opts, tiny_set):
    cfg = with_opts(tiny_opts, "TEST.BATCH_SIZE", 4, "SOLVER.MAX_EPOCH", 1)
    run_train(cfg)
    result = run_test(cfg)
    final = stats_of(Path(cfg.OUTPUT_DIR), "test_final")[0]
    assert final["split"] == "test_final"  # which PySlowFast's readers look for, and a text
    assert final["top1_acc"] == f"{result['top1_acc']:.2f}"
    with np.load(Path(cfg.OUTPUT_DIR) / "scores.npz") as saved:
        scores, labels, paths = saved["scores"], saved["labels"], saved["paths"]
        assert saved["scored"].all()
    assert scores.shape == (8, 6, 8)
    model = build_model(cfg).eval()
    model.load_state_dict(weights_of(cfg))
    lines = (tiny_set / "test.csv").read_text().split()
    for video in range(8):
        path = tiny_set / lines[2 * video]
        assert Path(paths[video]) == path
        assert labels[video] == int(lines[2 * video + 1])
        views = [naive_view(path, clip, crop, cfg) for clip in range(2) for crop in range(3)]
        with torch.no_grad():
            expected = model(torch.stack(views))
        np.testing.assert_allclose(scores[video], expected, atol=2e-5)
    correct = (scores.sum(axis=1).argmax(axis=1) == labels).mean()
    assert result["top1_acc"] == pytest.approx(100 * correct)


def test_broken_videos_are_named_and_survived(tiny_opts, tiny_set, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    broken = data / "broken one.mp4"
    broken.write_bytes(b"not a video")
    for split in ("train", "val", "test"):
        rows = (tiny_set / f"{split}.csv").read_text().splitlines()[:8]
        rows = [f"{tiny_set}/{row}" for row in rows]
        (data / f"{split}.csv").write_text("\n".join([*rows, f"{broken} 0", f"{broken} 1"]))
    more = ["DATA.PATH_TO_DATA_DIR", data, "SOLVER.MAX_EPOCH", 2, "TRAIN.BATCH_SIZE", 5]
    cfg = with_opts(tiny_opts, *more, "DATA.MAX_BAD_FRACTION", 0.2)
    run_train(cfg)
    result = run_test(cfg)
    assert (result["num_videos"], result["num_missing"]) == (8, 2)
    assert stats_of(Path(cfg.OUTPUT_DIR), "val_epoch")[0]["num_videos"] == 8
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count(f"Unreadable file {broken}") == 1
    with open(Path(cfg.OUTPUT_DIR) / "bad_videos.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["path"], row["split"], row["epoch"]) == (str(broken), "train", "1")
    assert "video format" in row["reason"]
    with pytest.raises(UserError, match=r"2 of the 10 files of test .*MAX_BAD_FRACTION"):
        run_test(with_opts(tiny_opts, *more, "DATA.MAX_BAD_FRACTION", 0.19))


def test_a_test_needs_a_checkpoint(tiny_cfg):
    with pytest.raises(CheckpointError, match=r"TEST\.CHECKPOINT_FILE_PATH"):
        run_test(tiny_cfg)


def test_a_checkpoint_of_another_model_is_refused(tiny_opts):
    run_train(with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1))
    with pytest.raises(CheckpointError, match="does not fit"):
        run_test(with_opts(tiny_opts, "RESNET.WIDTH_PER_GROUP", 16))


def test_weights_of_a_file_start_a_new_run(tiny_opts, tmp_path):
    first = with_opts(tiny_opts)
    run_train(first)
    path = list_checkpoints(Path(first.OUTPUT_DIR) / "checkpoints")[-1]
    more = ["TRAIN.CHECKPOINT_FILE_PATH", path, "OUTPUT_DIR", tmp_path / "second"]
    trainer = build_trainer(with_opts(tiny_opts, *more), torch.device("cpu"))
    trainer.start()
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)
    assert_same_weights(trainer.model.state_dict(), weights_of(first))


# ---------------------------------------------------------------------------- as a command


def start(opts: list[str], **kwargs) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, CFG, "--opts", *opts], **kwargs)


def wait_for_steps(folder: Path, count: int, process: subprocess.Popen) -> None:
    """Until the log has ``count`` train_iter lines."""
    log, deadline = folder / "json_stats.log", time.time() + 120
    while time.time() < deadline:
        assert process.poll() is None, "the run ended too early"
        if log.exists() and log.read_text().count("train_iter") >= count:
            return
        time.sleep(0.02)
    raise AssertionError("no step within two minutes")


SLOWER = ["SOLVER.MAX_EPOCH", "6", "TRAIN.EVAL_PERIOD", "0", "TEST.ENABLE", "False"]


@pytest.fixture
def long_run(tiny_opts, tmp_path):
    """Options of a run of six epochs, and the weights that it has at its end."""
    opts = [*tiny_opts, *SLOWER, "LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "1"]
    straight = [*opts, "OUTPUT_DIR", str(tmp_path / "straight")]
    assert Trainers(Path(CFG), straight).join() == [0]
    return opts, weights_of(load_cfg(CFG, straight))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_resumes(long_run, signum):
    opts, expected = long_run
    cfg = load_cfg(CFG, opts)
    process = start(opts, start_new_session=True)
    wait_for_steps(Path(cfg.OUTPUT_DIR), 6, process)
    os.killpg(process.pid, signum)  # as a terminal or a job does it: the workers get it too
    status = process.wait(timeout=60)
    if signum != signal.SIGKILL:
        assert status == 128 + signum
        assert list(Path(cfg.OUTPUT_DIR).glob("checkpoints/*.pyth"))
    subprocess.run([*COMMAND, CFG, "--opts", *opts], check=True, capture_output=True)
    assert_same_weights(weights_of(cfg), expected)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "Resuming from" in log


def test_workers_do_not_outlive_an_error_nor_keep_the_process(tiny_opts, tmp_path):
    """An exception that nobody catches, with loader processes alive."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from octvideo.config import load_cfg\n"
        "from octvideo.data import build_train_loader\n"
        "batches = iter(build_train_loader(load_cfg(sys.argv[1], sys.argv[2:])))\n"
        "next(batches)\n"
        "raise KeyError('nobody expects this')\n"
    )
    command = [sys.executable, str(script), CFG, *tiny_opts, "DATA_LOADER.NUM_WORKERS", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "nobody expects this" in run.stderr


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(long_run):
    opts, _ = long_run
    cfg = load_cfg(CFG, opts)
    process = start(opts, start_new_session=True, stderr=subprocess.PIPE)
    wait_for_steps(Path(cfg.OUTPUT_DIR), 2, process)
    os.kill(process.pid, signal.SIGSTOP)  # so that both come within one step
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 128 + signal.SIGINT)
    assert b"Stopping after this step" in errors


@pytest.mark.slow
def test_a_lost_terminal_leaves_a_checkpoint(long_run):
    opts, expected = long_run
    cfg = load_cfg(CFG, opts)
    controller, terminal = pty.openpty()
    process = start(
        opts, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=_own_the_terminal
    )
    os.close(terminal)
    os.set_blocking(controller, False)
    wait_for_steps(Path(cfg.OUTPUT_DIR), 6, process)
    assert b"epoch" in os.read(controller, 100_000)  # the progress bar
    os.close(controller)  # the window is closed
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert list(Path(cfg.OUTPUT_DIR).glob("checkpoints/*.pyth"))
    subprocess.run([*COMMAND, CFG, "--opts", *opts], check=True, capture_output=True)
    assert_same_weights(weights_of(cfg), expected)


def _own_the_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["TRAIN.BATCH_SIZ", "4"], "did you mean TRAIN.BATCH_SIZE"),
        (["NUM_GPUS", "64"], "NUM_GPUS"),
        (["DATA.PATH_TO_DATA_DIR", "/nowhere"], "DATA.PATH_TO_DATA_DIR"),
        (["TRAIN.ENABLE", "False"], "TEST.CHECKPOINT_FILE_PATH"),
        (["TEST.CHECKPOINT_FILE_PATH", "/no/file.pyth"], "/no/file.pyth"),
        (["RESNET.DEPTH", "51"], "depth 51"),
        (["RESNET.NUM_GROUPS", "8", "OCTAVE.ALPHA", "0.1"], "divisible by groups"),
        (["TEST.SAVE_RESULTS_PATH", "/tmp"], "TEST.SAVE_RESULTS_PATH"),
        (["OUTPUT_DIR", "/proc/nowhere"], "OUTPUT_DIR"),
    ],
)
def test_mistakes_end_with_a_line_before_any_work(tiny_opts, tmp_path, opts, message):
    """The form without --opts."""
    run = run_tool("run_net.py", "--cfg", CFG, *tiny_opts, *opts)
    assert run.returncode == 2
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert "Training starts" not in run.stdout


def test_two_files_need_two_folders(tiny_opts):
    run = run_tool("run_net.py", "--cfg", CFG, ROOT / "configs/Synthetic/I3D.yaml", *tiny_opts)
    assert run.returncode == 2
    assert "OUTPUT_DIR of its own" in run.stderr


def test_too_little_memory_names_the_key_to_lower(tiny_opts, monkeypatch, caplog):
    def run_out(*_):
        torch.empty(2**60, dtype=torch.uint8)

    cfg, module = with_opts(tiny_opts), sys.modules["octvideo.engine.jobs"]
    monkeypatch.setattr(module, "run_train", run_out)
    assert launch(lambda: [cfg]) == 2
    assert "out of memory in training: lower TRAIN.BATCH_SIZE, 6" in caplog.text
    monkeypatch.setattr(module, "run_train", lambda *_: None)
    monkeypatch.setattr(module, "run_test", run_out)
    assert launch(lambda: [cfg]) == 2
    assert f"out of memory in the test: lower TEST.BATCH_SIZE, {cfg.TEST.BATCH_SIZE}" in caplog.text


def test_a_run_that_has_nothing_to_do_says_so(tiny_opts, caplog):
    assert launch(lambda: [with_opts(tiny_opts, "TRAIN.ENABLE", False, "TEST.ENABLE", False)]) == 0
    assert "there is nothing to do" in caplog.text
