"""Multi-view testing: every video is decoded once for all its views.

Each video gives NUM_ENSEMBLE_VIEWS clips x NUM_SPATIAL_CROPS crops; view index = clip *
num_crops + crop. The scores of a video's views are summed, or their maximum is taken.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from octvideo.config import batch_per_process, clip_counts_of_test
from octvideo.data import VideoLoader, build_test_loader, data_class_names
from octvideo.data.clips import Batch, Item
from octvideo.data.protocol import build_protocol
from octvideo.deploy import ExportedNetwork, is_exported, open_exported
from octvideo.distributed.collectives import is_main, on_all, on_main, rank, world_size
from octvideo.distributed.launcher_env import processes_of
from octvideo.distributed.preemption import StopRequest
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.checkpoint import (
    CheckpointError,
    best_path,
    newest_first,
)
from octvideo.engine.log import is_terminal, log_json_stats, memory_stats
from octvideo.engine.meters import Clock, readable_time
from octvideo.engine.precision import DTYPES, compile_model
from octvideo.engine.results import Report, ScoreTable
from octvideo.engine.scorer import Scorer
from octvideo.engine.start import Build, start_run, write_config
from octvideo.models import build_model, optimize_for_inference
from octvideo.utils.errors import NonFiniteError
from octvideo.weights import Weights, load_into, read_weights
from octvideo.weights.converted import as_converted

logger = logging.getLogger("octvideo")


def run_test(
    cfg: CfgNode, trained: Path | None = None, build: Build = build_model
) -> dict[str, float | str]:
    """Tests a checkpoint on test.csv with all views, and returns what ``test_final`` logs.

    With several numbers of clips (TEST.NUM_TEMPORAL_CLIPS) there is a test for each, which
    overwrites the files of the previous one; the last result is returned.

    In a run of several processes each scores a share of the videos, every video once; the main
    one has the result, and the others return {}.

    The checkpoint is TEST.CHECKPOINT_FILE_PATH; else, with TEST.CHECKPOINT best, the one in
    OUTPUT_DIR with the lowest validation error; else the first that exists of ``trained`` (what
    ``run_train`` returned), the newest in OUTPUT_DIR, and TRAIN.CHECKPOINT_FILE_PATH.

    Writes the score table to TEST.SAVE_RESULTS_PATH, and into OUTPUT_DIR the predictions, the
    accuracy of each class, the confusions and, with matplotlib, an image of them.

    Raises:
        CheckpointError: there is nothing to test, or it does not fit.
        UserError: no video could be read, or some scores are nan or inf.
        Preempted: a signal came.
    """
    if (counts := clip_counts_of_test(cfg)) != [cfg.TEST.NUM_ENSEMBLE_VIEWS]:
        return [run_test(_with_clips(cfg, count), trained, build) for count in counts][-1]
    device = start_run(cfg)
    network = build(cfg)
    model, tested, names = on_all(lambda: load_tested(network, cfg, trained))
    if not cfg.TRAIN.ENABLE:  # else the training run has written it, or another one has its own
        write_config(cfg, "config_test.yaml")
    scorer = build_scorer(model.to(device).eval(), cfg, tested)
    loader = build_test_loader(cfg, rank(), world_size())
    folder = Path(cfg.OUTPUT_DIR)
    bad_videos = BadVideos(folder, cfg.DATA.MAX_BAD_FRACTION)
    views = loader.dataset.protocol.num_views
    table = ScoreTable(loader.dataset.videos.labels, views, cfg.MODEL.NUM_CLASSES)
    progress = _Progress(len(loader), cfg.LOG_PERIOD, folder, cfg.JSON_STATS_STEPS)
    with StopRequest() as stop:
        score_videos(scorer, loader, table, bad_videos, stop, progress)
    table.gather()
    kind = loader.dataset.source.noun
    report = Report(folder, cfg.DATA.ENSEMBLE_METHOD, cfg.TEST.SAVE_RESULTS_PATH, kind)

    def finish() -> dict[str, float | str]:
        counts, problem = report(table, loader.dataset.videos.paths(), names)
        stats: dict[str, float | str] = {**counts, "checkpoint": str(tested)}
        _log_final(stats, folder, device)
        if problem:
            raise NonFiniteError(problem)
        return stats

    stats = on_main(finish)
    return stats if is_main() else {}


def _with_clips(cfg: CfgNode, count: int) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_TEMPORAL_CLIPS = count, []
    cfg.freeze()
    return cfg


def build_scorer(model: nn.Module, cfg: CfgNode, tested: Path) -> Scorer:
    """Returns what a test of ``cfg`` scores with; model: in evaluation mode, on its device."""
    if cfg.MODEL.FOLD_CONV3D:
        try:
            model = optimize_for_inference(model, DTYPES.get(cfg.TEST.PRECISION))
        except NonFiniteError as error:
            raise NonFiniteError(f"{tested}: {error}") from error
    if cfg.TEST.COMPILE:
        compile_model(model)
    batch_size = batch_per_process(cfg, processes_of(cfg), "test")
    return Scorer(model, build_protocol(cfg), batch_size, cfg.TEST.COMPILE)


def load_tested(
    model: nn.Module, cfg: CfgNode, trained: Path | None
) -> tuple[nn.Module, Path, list[str]]:
    """Returns the model with the weights that ``run_test`` tests, their file, and class names.

    It is ``model``, or its octave form if the file was made octave after its training. The names
    beside the test's lists say what its labels mean. Without them, the names in the checkpoint are
    used; without these, classes are numbers.
    """
    of_data = data_class_names(cfg, "test")
    if is_exported(cfg.TEST.CHECKPOINT_FILE_PATH):
        exported = open_tested(model, cfg)
        names = exported.record.class_names
        return exported, exported.path, _class_names(names, of_data, cfg, exported.path)
    weights = find_checkpoint(cfg, trained)
    model = as_converted(model, weights)
    logger.info("Testing %s", load_into(model, weights))
    best = best_path(Path(cfg.OUTPUT_DIR) / "checkpoints")
    if not cfg.TEST.CHECKPOINT_FILE_PATH and best.exists() and weights.path != best:
        logger.info("It is the last one; TEST.CHECKPOINT best tests %s", best)
    return model, weights.path, _class_names(weights.class_names, of_data, cfg, weights.path)


def open_tested(model: nn.Module, cfg: CfgNode) -> ExportedNetwork:
    """Returns the exported network that TEST.CHECKPOINT_FILE_PATH names, in place of ``model``.

    Raises:
        CheckpointError: it is another network, or made for other clips, than those of ``cfg``.
        UserError: as in ``open_exported``.
    """
    exported = open_exported(cfg.TEST.CHECKPOINT_FILE_PATH, cfg.TEST.PRECISION)
    spec: Any = getattr(model, "spec", None)
    record = exported.record
    found: dict[str, tuple[object, object]] = {
        "DATA.NUM_FRAMES": (record.num_frames, cfg.DATA.NUM_FRAMES),
        "DATA.TEST_CROP_SIZE": (
            cfg.DATA.TEST_CROP_SIZE if record.dynamic_size else record.crop_size,
            cfg.DATA.TEST_CROP_SIZE,
        ),
        "MODEL.NUM_CLASSES": (record.num_classes, cfg.MODEL.NUM_CLASSES),
    }
    texts = [f"{key} was {a}, is {b}" for key, (a, b) in found.items() if a != b]
    if record.spec is not None and type(spec) is type(record.spec):
        texts += [d.in_keys for d in record.spec.differences(spec, without=["num_classes"])]
    if texts:
        raise CheckpointError(
            f"{exported.path} was exported otherwise than the configuration says: "
            f"{'; '.join(texts)}: change the configuration, or export the network again"
        )
    logger.info("Testing %s, exported", exported.path)
    return exported


def _class_names(
    of_file: Sequence[str] | None, names: list[str] | None, cfg: CfgNode, path: Path
) -> list[str]:
    if not of_file or len(of_file) != cfg.MODEL.NUM_CLASSES:
        return names or [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]
    of_file = list(of_file)
    if names and names != of_file:
        label = next(i for i, name in enumerate(names) if name != of_file[i])
        logger.warning(
            "Class %d is %r in the data and %r in %s: where labels are numbered in another order, "
            "the accuracy is meaningless",
            label,
            names[label],
            of_file[label],
            path,
        )
    return names or of_file


def find_checkpoint(cfg: CfgNode, trained: Path | None = None) -> Weights:
    """Returns the weights that ``run_test`` tests; with EMA.ENABLE, the averaged ones if present.

    All processes have to call it.
    """
    folder, names = Path(cfg.OUTPUT_DIR) / "checkpoints", cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN
    if path := cfg.TEST.CHECKPOINT_FILE_PATH:
        return read_weights(path, clear_names=names, average=cfg.EMA.ENABLE)
    if cfg.TEST.CHECKPOINT == "best":
        path = best_path(folder)
        if not on_main(path.is_file):
            raise CheckpointError(
                f"TEST.CHECKPOINT is best, but there is no {path}: a validation writes it "
                "(TRAIN.EVAL_PERIOD). Set TEST.CHECKPOINT last, or TEST.CHECKPOINT_FILE_PATH"
            )
        return read_weights(path, average=cfg.EMA.ENABLE)
    if trained:
        return read_weights(trained, average=cfg.EMA.ENABLE)
    # One answer for all, as a training may go on there, of which each node hears at its own time.
    if newest := on_main(lambda: newest_first(folder, lambda *_: None)):
        return read_weights(newest, average=cfg.EMA.ENABLE)
    if path := cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return read_weights(path, clear_names=names)
    raise CheckpointError(
        f"there is no checkpoint to test in {folder}: train first, or set TEST.CHECKPOINT_FILE_PATH"
    )


def score_videos(
    scorer: Scorer,
    loader: VideoLoader[Item] | VideoLoader[Batch],
    table: ScoreTable,
    bad_videos: BadVideos,
    stop: StopRequest,
    progress: "_Progress",
) -> None:
    """Scores every view of every file of this process and puts the scores into the table."""
    bad_videos.begin("test", 0, len(loader.dataset.videos))
    bar = tqdm(loader, desc=f"test, {table.scores.shape[1]} views", disable=not is_terminal())
    for item in stop.watch(bar):
        progress.clock.data_arrived()
        bad_videos.add(item)
        found = scorer(item)
        for file, scores in zip(found.files, found.values.cpu().numpy(), strict=True):
            table.put(file, scores)
        progress.step_done()
    try:
        bad_videos.share()
    finally:
        bad_videos.close()


class _Progress:
    """Logs ``test_iter``, the time a video takes and what is left, after every ``period`` items."""

    def __init__(self, count: int, period: int, folder: Path, to_file: bool) -> None:
        self.count, self.period, self.folder, self.to_file = count, period, folder, to_file
        self.clock, self.done = Clock(), 0

    def step_done(self) -> None:
        self.clock.step_done()
        self.done += 1
        if self.done % self.period:
            return
        stats, done = self.clock.read(), self.done
        eta = readable_time(stats["dt"] * (self.count - done))
        header = {"_type": "test_iter", "iter": f"{done}/{self.count}", "eta": eta}
        theirs = {"split": "test_iter", "cur_iter": str(done), "time_diff": stats["dt"]}
        log_json_stats({**header, **theirs, **stats}, self.folder, self.to_file)  # as PySlowFast


def _log_final(stats: Mapping[str, float | str], folder: Path, device: torch.device) -> None:
    """Logs accuracies as texts of two decimals, under ``split`` too, as PySlowFast writes them."""
    texts = {key: f"{value:.2f}" for key, value in stats.items() if key.endswith("_acc")}
    header = {"_type": "test_final", "split": "test_final"}
    log_json_stats({**header, **stats, **texts, **memory_stats(device)}, folder)
