"""Runs of several processes against runs of one: losses, weights, validation and test."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.distributed.data_parallel import distribute
from octvideo.distributed.preemption import StopRequest
from octvideo.engine import (
    checkpoint,
    load_checkpoint,
    results,
    run_test,
    run_train,
    train,
    train_log,
)
from octvideo.engine.checkpoint import checkpoint_path, save_checkpoint
from octvideo.engine.precision import channels_last, move_model
from octvideo.engine.results import ScoreTable
from octvideo.engine.step import Transfer
from octvideo.models import build_model
from support import ROOT, liven
from support.processes import run_processes

EXACT = ["MODEL.DROPOUT_RATE", 0, "BN.NORM_TYPE", "sync_batchnorm", "LOG_PERIOD", 1]
EXACT += ["TRAIN.BATCH_SIZE", 8, "SOLVER.MAX_EPOCH", 4, "TEST.SAVE_RESULTS_PATH", "scores.npz"]


def whole_run(rank: int, opts: list[str], folder: Path) -> dict:
    """Trains and tests as one of several processes; what the log and the files hold.

    In float64: in float32 a ReLU or a maximum falls to the other side now and then by rounding.
    """
    torch.set_default_dtype(torch.float64)
    transfer = Transfer.__call__
    Transfer.__call__ = lambda self, batch: _in_float64(*transfer(self, batch))
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, "OUTPUT_DIR", str(folder)])
    log, write = [], train_log.log_json_stats
    train_log.log_json_stats = lambda stats, *rest: (log.append(stats), write(stats, *rest))
    path = run_train(cfg)
    return {"log": log, "path": path, "test": run_test(cfg, path)}


def _in_float64(video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return video.double(), labels


def compared(tmp_path: Path, worlds: tuple[int, ...], opts: list) -> list[list[dict]]:
    """The outcome of each process, for each number of processes."""
    return [
        run_processes(
            whole_run,
            size,
            tmp_path / f"processes-{size}",
            [str(word) for word in opts],
            tmp_path / f"of-{size}",
            timeout=200,
        )
        for size in worlds
    ]


def of_kind(outcome: dict, kind: str, key: str) -> list[float]:
    return [stats[key] for stats in outcome["log"] if stats["_type"] == kind]


VARIANTS = {
    "octave": ["OCTAVE.ENABLE", True],
    "vanilla, in parts, with an average, recomputed": [
        *("OCTAVE.ENABLE", False, "TRAIN.ACCUMULATE_STEPS", 2, "MODEL.ACT_CHECKPOINT", True),
        *("EMA.ENABLE", True, "EMA.DECAY", 0.9, "SOLVER.CLIP_GRAD_L2NORM", 1.0),
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_with_half_of_the_batch_are_one(tiny_opts, tmp_path, name):
    """12 steps of 8 clips, precise batch norm, validation, and a test of 6 views."""
    [one], two = compared(tmp_path, (1, 2), [*tiny_opts, *EXACT, *VARIANTS[name]])
    for key in ("loss", "grad_norm", "lr"):
        want = of_kind(one, "train_iter", key)
        assert len(want) == 12
        for outcome in two:
            assert of_kind(outcome, "train_iter", key) == pytest.approx(want, abs=1e-8), key
    for kind, key in (("train_epoch", "loss"), ("val_epoch", "top1_err")):
        assert of_kind(two[0], kind, key) == pytest.approx(of_kind(one, kind, key), abs=1e-8)
    assert of_kind(two[0], "val_epoch", "num_videos") == [8] * 4
    assert one["path"].name == two[0]["path"].name == two[1]["path"].name
    want, got = (load_checkpoint(outcome["path"]) for outcome in (one, two[0]))
    for kind in ("model_state", "ema_state"):
        state = want.get(kind, {})
        assert got.get(kind, {}).keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(got[kind][key], value, rtol=1e-7, atol=1e-8, msg=key)
    assert two[1]["test"] == {}
    tested = [Path(outcome["test"].pop("checkpoint")).name for outcome in (one, two[0])]
    assert tested == [one["path"].name] * 2
    assert two[0]["test"] == pytest.approx(one["test"])
    tables = [np.load(tmp_path / f"of-{size}/scores.npz") for size in (1, 2)]
    np.testing.assert_allclose(tables[1]["scores"], tables[0]["scores"], atol=1e-6)
    assert (tmp_path / "of-2/json_stats.log").read_text().count("train_iter") == 12


def losses_in_float32(rank: int, opts: list[str], folder: Path) -> list[float]:
    """Of every step; the files have fewer digits."""
    log = []
    train_log.log_json_stats = lambda stats, *_: log.append(stats)
    run_train(load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, "OUTPUT_DIR", str(folder)]))
    return of_kind({"log": log}, "train_iter", "loss")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("octave", [True, False])
def test_two_processes_with_half_of_the_batch_have_the_same_losses_in_float32(
    tiny_opts, tmp_path, octave
):
    """12 steps at a small rate, so that a ReLU which rounding has turned moves little; half of
    that rate, as of gradients half as large, moves the losses more than a hundred times as much.
    """
    opts = [*tiny_opts, *EXACT, "TRAIN.EVAL_PERIOD", 0, "BN.USE_PRECISE_STATS", False]
    opts += ["OCTAVE.ENABLE", octave, "SOLVER.WARMUP_EPOCHS", 0, "SOLVER.BASE_LR"]
    losses = {}
    for size, rate in ((1, 2e-5), (2, 2e-5), (1, 1e-5)):
        words, name = [*map(str, opts), str(rate)], f"{size}-{rate}"
        folders = tmp_path / f"processes-{name}", words, tmp_path / f"run-{name}"
        losses[size, rate] = run_processes(losses_in_float32, size, *folders, timeout=90)
    [one], two, [slower] = losses.values()
    assert len(one) == 12
    assert two == [pytest.approx(one, abs=1e-5)] * 2
    assert max(abs(a - b) for a, b in zip(one, slower, strict=True)) > 1e-4


def uneven_run(rank: int, opts: list[str], folder: Path) -> dict:
    """The second process loses a clip in every batch; batch norm is each process's own."""
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, "OUTPUT_DIR", str(folder)])
    trainer = train.build_trainer(cfg, train.start_run(cfg))
    trainer.model.head.projection.weight.data += rank  # as a file that differs between nodes
    first_weight = trainer.model.head.projection.weight.clone()
    drawn = torch.rand(4)  # as dropout would
    loader, videos = trainer.train_loader, []

    class Losing:
        sampler, dataset, num_workers = loader.sampler, loader.dataset, 0

        def __iter__(self):
            for batch in loader:
                keep = len(batch["label"]) - rank
                videos.append(batch["index"].tolist())
                yield {**batch, **{key: batch[key][:keep] for key in ("video", "label", "index")}}

    trainer.train_loader = Losing()
    trainer.start()
    shared_weight = trainer.model.head.projection.weight.clone()
    with StopRequest() as stop:
        trainer.run(stop)
    return {
        "own": first_weight,
        "shared": shared_weight,
        "drawn": drawn,
        "videos": videos,
        "samples": trainer.log.meters["steps"].count,
        "state": {key: value.clone() for key, value in trainer.model.state_dict().items()},
        "average": {k: v.clone() for k, v in trainer.average.model.state_dict().items()},
    }


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_processes_stay_one_model_where_one_loses_clips(tiny_opts, tmp_path):
    opts = [*tiny_opts, "LOG_PERIOD", 100, "EMA.ENABLE", True, "SOLVER.MAX_EPOCH", 1]
    opts += ["TRAIN.EVAL_PERIOD", 0, "BN.USE_PRECISE_STATS", False]
    opts = [str(word) for word in opts]
    one, two = run_processes(uneven_run, 2, tmp_path / "processes", opts, tmp_path / "run")
    assert not torch.equal(one["own"], two["own"])
    assert torch.equal(one["shared"], two["shared"])
    assert torch.equal(one["own"], one["shared"])
    assert not torch.equal(one["drawn"], two["drawn"])
    assert len(one["videos"]) == len(two["videos"]) == 4
    for a, b in zip(one["videos"], two["videos"], strict=True):
        assert len(a) == len(b) == 3  # half of the batch of the node
        assert not set(a) & set(b)
    assert not torch.equal(one["shared"], one["state"]["head.projection.weight"])
    for kind in ("state", "average"):
        assert all(torch.equal(one[kind][key], two[kind][key]) for key in one[kind])


def words_between_steps(rank: int, opts: list[str], folder: Path) -> list[list[str]]:
    """What this process sends from one step of the first epoch to the next, besides gradients."""
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, "OUTPUT_DIR", str(folder)])
    trainer = train.build_trainer(cfg, train.start_run(cfg))
    trainer.start()
    sent: list[str] = []
    steps: list[list[str]] = []
    for name in ("all_reduce", "broadcast", "all_gather_object", "gather_object"):
        function = getattr(torch.distributed, name)

        def send(*args, name=name, function=function, **kwargs):
            sent.append(name)
            return function(*args, **kwargs)

        setattr(torch.distributed, name, send)
    make_step = trainer.step

    def step(*args):
        steps.append(sent.copy())
        sent.clear()
        return make_step(*args)

    step.update, step.average = make_step.update, make_step.average
    step.transfer, step.precision = make_step.transfer, make_step.precision
    trainer.step = step
    with StopRequest() as stop:
        trainer.run(stop)
    return steps[1:]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_processes_exchange_one_word_a_step(tiny_opts, tmp_path):
    opts = [*tiny_opts, "LOG_PERIOD", 6, "SOLVER.MAX_EPOCH", 1, "TRAIN.BATCH_SIZE", 4]
    opts += ["TRAIN.EVAL_PERIOD", 0, "BN.USE_PRECISE_STATS", False]
    opts = [str(word) for word in [*opts, "TRAIN.CHECKPOINT_SECONDS", 1000]]
    for steps in run_processes(words_between_steps, 2, tmp_path / "two", opts, tmp_path / "run"):
        assert steps == [["all_reduce"]] * 5


def four_steps(rank: int, restart_after: int | None) -> list[Tensor]:
    """Weights; what ``restart_after`` a step is wrapped anew, as by a run that goes on there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 300), nn.Linear(300, 7))
    parallel = distribute(model)
    for step in range(4):
        if step == restart_after:
            model = copy.deepcopy(model)
            parallel = distribute(model)
        torch.manual_seed(100 * step + rank)
        model.zero_grad()
        parallel(torch.randn(8, 300)).square().sum().backward()
        for parameter in model.parameters():
            parameter.data -= 1e-4 * parameter.grad
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("count", [2, 3])
def test_processes_add_to_the_same_after_a_restart(tmp_path, count):
    """Of three numbers the order counts, and DistributedDataParallel likes to change it."""
    straight = run_processes(four_steps, count, tmp_path / "straight", None, timeout=25)
    resumed = run_processes(four_steps, count, tmp_path / "resumed", 2, timeout=25)
    for a, b in zip(straight[0], resumed[0], strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- test


def scored(rank: int, opts: list[str], folder: Path) -> tuple[list[int], dict]:
    """The videos that this process has scored, and the result."""
    mine, gather = [], ScoreTable.gather

    def note(table: ScoreTable) -> None:
        mine.extend(np.flatnonzero(table.scored).tolist())
        gather(table)

    ScoreTable.gather = note
    opts = [*opts, "OUTPUT_DIR", str(folder)]
    return mine, run_test(load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_seven_videos_on_three_processes(tiny_cfg, tiny_set, tiny_opts, tmp_path):
    lines = (tiny_set / "test.csv").read_text().splitlines()[:7]
    (tmp_path / "data").mkdir()
    prefix = "" if Path(lines[0]).is_absolute() else f"{tiny_set}/"
    (tmp_path / "data/test.csv").write_text("\n".join(prefix + line for line in lines))
    model = build_model(tiny_cfg)
    save_checkpoint(tmp_path / "model.pyth", {"epoch": 0, "model_state": model.state_dict()})
    opts = [*tiny_opts, "DATA.PATH_TO_DATA_DIR", tmp_path / "data", "TRAIN.ENABLE", False]
    opts += ["TEST.CHECKPOINT_FILE_PATH", tmp_path / "model.pyth", "TEST.NUM_ENSEMBLE_VIEWS", 10]
    opts = [str(word) for word in [*opts, "TEST.SAVE_RESULTS_PATH", "scores.npz"]]
    tables, stats = {}, {}
    for size in (1, 3):
        folder = tmp_path / f"of-{size}"
        parts = run_processes(scored, size, tmp_path / f"processes-{size}", opts, folder)
        assert sorted(video for mine, _ in parts for video in mine) == list(range(7))
        assert all(result == {} for _, result in parts[1:])
        stats[size], tables[size] = parts[0][1], np.load(folder / "scores.npz")
        assert tables[size]["scores"].shape == (7, 30, 8)
        assert tables[size]["scored"].all()
    assert stats[3] == pytest.approx(stats[1])
    np.testing.assert_allclose(tables[3]["scores"], tables[1]["scores"], atol=1e-6)
    np.testing.assert_allclose(tables[3]["scores"].sum(axis=2), 1, atol=1e-5)
    predictions = [(tmp_path / f"of-{size}/predictions.csv").read_text() for size in (1, 3)]
    assert len(predictions[0].splitlines()) == 8
    columns = [[row.split(",")[:3] for row in text.splitlines()] for text in predictions]
    assert columns[1] == columns[0]  # path, label, likeliest class


def scores_late(rank: int, opts: list[str]) -> None:
    """A file system that all share tells the second process of a new checkpoint later."""
    if rank:
        listed = checkpoint.list_checkpoints
        checkpoint.list_checkpoints = lambda folder: listed(folder)[:-1]
    run_test(load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts))


@pytest.mark.timeout(100)
def test_all_processes_test_the_same_checkpoint(tiny_cfg, tiny_opts, tmp_path):
    scores = []
    opts = [*tiny_opts, "TEST.SAVE_RESULTS_PATH", "scores.npz"]
    for epoch in (0, 1):
        model = liven(build_model(tiny_cfg))
        content = {"epoch": epoch, "model_state": model.state_dict()}
        save_checkpoint(checkpoint_path(tmp_path / "run/checkpoints", epoch + 1), content)
        for size in (1, 2)[: epoch + 1]:
            run_processes(scores_late, size, tmp_path / f"processes-{epoch}{size}", opts)
            scores.append(np.load(tmp_path / "run/scores.npz")["scores"])
    first, newest, of_two = scores
    assert not np.allclose(first[1::2], newest[1::2], atol=1e-2)  # those of the second process
    np.testing.assert_allclose(of_two, newest, atol=1e-6)


def gathered(rank: int) -> np.ndarray | None:
    """Five videos, of which process ``rank`` has those of the same remainder; the third is lost."""
    results.ROWS_AT_ONCE = 2  # a row of each process at a time
    table = ScoreTable(np.arange(5), 3, 2)
    for video in range(rank, 5, 2):
        if video != 3:
            table.put(video, np.full((3, 2), video))
    table.gather()
    return np.where(table.scored, table.scores[:, 0, 0], -1)


def gradients_of_steps(rank: int, networks: list[tuple[str, float]]) -> list[str]:
    """Warnings of two steps, and kernels whose gradients lie in another order than they do."""
    told = []
    for name, alpha in networks:
        model = create_model(name, 3, alpha, width_per_group=16).train()
        model = move_model(model, torch.device("cpu"))
        clips = torch.rand(2, 3, 32 if "slowfast" in name else 8, 32, 32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = distribute(model)
            for _ in range(2):  # torch looks from the second on
                run(channels_last(clips)).sum().backward()
        told += [str(warning.message) for warning in caught]
        for key, kernel in model.named_parameters():
            kinds = zip(kernel.shape, kernel.stride(), kernel.grad.stride(), strict=True)
            if any(n > 1 and own != other for n, own, other in kinds):
                told.append(f"{name} {key}")
    return told


def test_gradients_lie_in_memory_as_their_kernels(tmp_path):
    """So that torch has no reason to warn of their strides, and nothing to reorder."""
    networks = [("i3d_r50", 0.0), ("i3d_r50", 0.25), ("slowfast_r50", 0.0)]
    for told in run_processes(gradients_of_steps, 2, tmp_path, networks, timeout=200):
        assert not told


@pytest.mark.timeout(60)
def test_scores_come_to_the_main_process_in_parts(tmp_path):
    main, other = run_processes(gathered, 2, tmp_path, timeout=50)
    assert main.tolist() == [0, 1, 2, -1, 4]
    assert other.tolist() == [-1, 1, -1, -1, -1]
