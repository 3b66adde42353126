"""Multi-view testing: every video is decoded once for all its views.

Each video gives NUM_ENSEMBLE_VIEWS clips x NUM_SPATIAL_CROPS crops; view index = clip *
num_crops + crop. The scores of a video's views are summed, or their maximum is taken.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.config import batch_per_process, has_pictures
from octvideo.data import VideoLoader, build_test_loader, normalization, normalize, view
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.checkpoint import (
    CheckpointError,
    newest_first,
    warn_of_another_network,
)
from octvideo.engine.interrupt import StopRequest
from octvideo.engine.meters import Clock, readable_time, top_k_correct
from octvideo.engine.precision import DTYPES, Evaluation, compile_model
from octvideo.engine.results import (
    ScoreTable,
    confusion_matrix,
    write_class_accuracy,
    write_confusion_matrix,
)
from octvideo.engine.start import start_run, write_config
from octvideo.models import build_model, optimize_for_inference
from octvideo.utils.dist import is_main, on_all, on_main, rank, world_size
from octvideo.utils.errors import UserError
from octvideo.utils.log import is_terminal, log_json_stats, memory_stats
from octvideo.weights import Weights, load_into, read_weights

logger = logging.getLogger("octvideo")


def run_test(cfg: CfgNode, trained: Path | None = None) -> dict[str, Any]:
    """Tests a checkpoint on test.csv with all views; returns what ``test_final`` logs.

    In a run of several processes each scores a share of the videos, every video once; the main
    one has the result, and the others return {}.

    The checkpoint is TEST.CHECKPOINT_FILE_PATH, else ``trained`` (what ``run_train`` returned),
    else the newest of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.

    Writes the score table to TEST.SAVE_RESULTS_PATH, the accuracy of each class and, with
    matplotlib, the confusion matrix into OUTPUT_DIR.

    Raises:
        CheckpointError: there is nothing to test, or it does not fit.
        Interrupted: a signal came.
    """
    device = start_run(cfg)
    model = build_model(cfg)
    on_all(lambda: load_tested(model, cfg, trained))
    write_config(cfg)
    model.to(device).eval()
    if cfg.MODEL.FOLD_CONV3D:
        model = optimize_for_inference(model, DTYPES.get(cfg.TEST.PRECISION))
    if cfg.TEST.COMPILE:
        compile_model(model)
    loader = build_test_loader(cfg, rank(), world_size())
    with StopRequest() as stop:
        table = score_videos(model, loader, cfg, device, stop)
    table.gather()
    stats = on_main(lambda: report(table, cfg, loader.dataset.videos.paths(), device))
    return stats if is_main() else {}


def load_tested(model: nn.Module, cfg: CfgNode, trained: Path | None) -> None:
    """Loads into ``model`` what ``run_test`` tests."""
    weights = find_checkpoint(cfg, trained)
    warn_of_another_network(weights.path, weights.cfg, cfg)
    logger.info("Testing %s", load_into(model, weights))


def find_checkpoint(cfg: CfgNode, trained: Path | None = None) -> Weights:
    """What ``run_test`` tests; with EMA.ENABLE, the averaged weights where the file has them.

    All processes have to call it.
    """
    folder, names = Path(cfg.OUTPUT_DIR) / "checkpoints", cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN
    if path := cfg.TEST.CHECKPOINT_FILE_PATH:
        return read_weights(path, clear_names=names, average=cfg.EMA.ENABLE)
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


@torch.inference_mode()
def score_videos(
    model: nn.Module, loader: VideoLoader, cfg: CfgNode, device: torch.device, stop: StopRequest
) -> ScoreTable:
    """Runs every view of every video (the one view of every picture) through the model."""
    views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    num_views = 1 if has_pictures(cfg, "test") else views
    table = ScoreTable(loader.dataset.videos.labels, num_views, cfg.MODEL.NUM_CLASSES)
    bad_videos, clock = BadVideos(Path(cfg.OUTPUT_DIR), cfg.DATA.MAX_BAD_FRACTION), Clock()
    bad_videos.begin("test", 0, len(loader.dataset.videos))
    evaluate = Evaluation(model, device, cfg.TEST.PRECISION, cfg.TEST.COMPILE)
    bar = tqdm(loader, desc=f"test, {num_views} views", disable=not is_terminal())
    for done, item in enumerate(stop.watch(bar), start=1):
        clock.data_arrived()
        bad_videos.add(item)
        for index, scores in _scores_of(item, evaluate, cfg, device):
            table.put(index, scores)
        clock.step_done()
        if done % cfg.LOG_PERIOD == 0:
            _log_progress(cfg, clock, done, len(loader))
    try:
        bad_videos.share()
    finally:
        bad_videos.close()
    return table


def _scores_of(
    item: dict[str, Any], evaluate: Evaluation, cfg: CfgNode, device: torch.device
) -> Iterator[tuple[int, np.ndarray]]:
    """Videos of an item of the test loader, by number, and their scores (num_views, classes).

    An item is one video with all views, or a batch of pictures with one view each; what could not
    be read is not in it.
    """
    pixels = normalization(cfg, "test")
    if "clips" in item:
        frames = normalize(item["frames"].to(device, non_blocking=True), **pixels)
        batch_size = batch_per_process(cfg, "test")
        views = view_batches(item, frames, cfg.DATA.TEST_CROP_SIZE, batch_size)
        yield item["index"], torch.cat([evaluate(v) for v in views]).cpu().numpy()
    elif "video" in item and len(item["video"]):
        pictures = normalize(item["video"].to(device, non_blocking=True), **pixels)
        scores = evaluate(pictures).cpu().numpy()
        yield from zip(item["index"].tolist(), scores[:, None], strict=True)


def view_batches(
    item: dict[str, Any], frames: Tensor, crop_size: int, batch_size: int
) -> Iterator[Tensor]:
    """The views of a video in order, in batches of (at most) batch_size: (B, 3, T, S, S).

    They are cut from ``frames``, those of the item, once normalised for all views that share them.
    """
    views = [(clip, crop) for clip in item["clips"] for crop in item["crops"]]
    for start in range(0, len(views), batch_size):
        part = views[start : start + batch_size]
        shape = (len(part), frames.shape[0], item["clips"].shape[1], crop_size, crop_size)
        batch = frames.new_empty(shape)
        for (clip, crop), out in zip(part, batch, strict=True):
            out.copy_(view(frames, clip, crop, crop_size))
        yield batch


def _log_progress(cfg: CfgNode, clock: Clock, done: int, count: int) -> None:
    stats = clock.read()
    eta = readable_time(stats["dt"] * (count - done))
    header = {"_type": "test_iter", "iter": f"{done}/{count}", "eta": eta}
    log_json_stats({**header, **stats}, Path(cfg.OUTPUT_DIR))


def report(
    table: ScoreTable, cfg: CfgNode, paths: list[str], device: torch.device
) -> dict[str, Any]:
    """Logs accuracies over the videos that could be scored, then writes the result files."""
    num_scored = int(table.scored.sum())
    missing = [path for path, scored in zip(paths, table.scored, strict=True) if not scored]
    kind = "pictures" if has_pictures(cfg, "test") else "videos"
    if not num_scored:
        raise UserError(f"none of the {len(paths)} {kind} of the test could be read")
    scores = table.ensemble(cfg.DATA.ENSEMBLE_METHOD)[table.scored]
    labels = table.labels[table.scored]
    top1, top5 = top_k_correct(torch.from_numpy(scores), torch.from_numpy(labels)).tolist()
    stats = {
        "_type": "test_final",
        "top1_acc": 100 * top1 / num_scored,
        "top5_acc": 100 * top5 / num_scored,
        "num_videos": num_scored,
        "num_missing": len(missing),
        "num_views": table.scores.shape[1],
    }
    log_json_stats({**stats, **memory_stats(device)}, Path(cfg.OUTPUT_DIR))
    logger.info(
        "%d view%s: top-1 %.2f %%, top-5 %.2f %% of %d %s%s",
        stats["num_views"],
        "s" if stats["num_views"] > 1 else "",
        stats["top1_acc"],
        stats["top5_acc"],
        num_scored,
        kind,
        f"; {len(missing)} missing" if missing else "",
    )
    matrix = confusion_matrix(labels, scores.argmax(axis=1), cfg.MODEL.NUM_CLASSES)
    write_files(table, matrix, cfg, paths)
    return stats


def write_files(table: ScoreTable, matrix: np.ndarray, cfg: CfgNode, paths: list[str]) -> None:
    """The score table, where it is asked for, the accuracy of each class and the confusions."""
    output_dir = Path(cfg.OUTPUT_DIR)
    try:
        if cfg.TEST.SAVE_RESULTS_PATH:
            path = output_dir / cfg.TEST.SAVE_RESULTS_PATH
            table.save(path, paths)
            logger.info("Scores [video, view] are in %s, a NumPy archive", path)
        write_class_accuracy(matrix, output_dir / "class_accuracy.csv")
        write_confusion_matrix(matrix, output_dir / "confusion_matrix.png")
    except OSError as error:
        raise UserError(f"can not write {error.filename}: {error.strerror}") from error
