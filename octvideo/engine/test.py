"""Multi-view testing: every video is decoded once for all its views.

Each video gives NUM_ENSEMBLE_VIEWS clips x NUM_SPATIAL_CROPS crops; view index = clip *
num_crops + crop. The scores of a video's views are summed, or their maximum is taken.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.config import batch_per_process, clip_counts_of_test, has_pictures
from octvideo.data import (
    VideoLoader,
    build_test_loader,
    data_class_names,
    normalization,
    normalize,
    view,
)
from octvideo.data.lists import UNLABELLED
from octvideo.distributed.collectives import is_main, on_all, on_main, rank, world_size
from octvideo.distributed.preemption import StopRequest
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.checkpoint import (
    CheckpointError,
    best_path,
    newest_first,
    warn_of_another_network,
)
from octvideo.engine.confusion import (
    confusion_matrix,
    confusions,
    mean_class_accuracy,
    write_class_accuracy,
    write_confusion_matrix,
    write_confusions,
)
from octvideo.engine.log import is_terminal, log_json_stats, memory_stats
from octvideo.engine.meters import Clock, readable_time, top_k_correct
from octvideo.engine.precision import DTYPES, Evaluation, compile_model
from octvideo.engine.results import ScoreTable, write_predictions
from octvideo.engine.start import Build, start_run, write_config
from octvideo.models import build_model, optimize_for_inference
from octvideo.utils.errors import NonFiniteError, UserError
from octvideo.weights import Weights, load_into, read_weights

logger = logging.getLogger("octvideo")


def run_test(
    cfg: CfgNode, trained: Path | None = None, build: Build = build_model
) -> dict[str, Any]:
    """Tests a checkpoint on test.csv with all views; returns what ``test_final`` logs.

    With several numbers of clips (TEST.NUM_TEMPORAL_CLIPS) it is that of the last; each writes over
    the files of the one before.

    In a run of several processes each scores a share of the videos, every video once; the main
    one has the result, and the others return {}.

    The checkpoint is TEST.CHECKPOINT_FILE_PATH; else, with TEST.CHECKPOINT best, that of OUTPUT_DIR
    with the lowest validation error; else ``trained`` (what ``run_train`` returned), the newest of
    OUTPUT_DIR, or TRAIN.CHECKPOINT_FILE_PATH, the first that there is.

    Writes the score table to TEST.SAVE_RESULTS_PATH, and into OUTPUT_DIR what each video was taken
    for, the accuracy of each class, the confusions and, with matplotlib, an image of them.

    Raises:
        CheckpointError: there is nothing to test, or it does not fit.
        UserError: no video could be read, or there are scores that are nan or inf.
        Preempted: a signal came.
    """
    if (counts := clip_counts_of_test(cfg)) != [cfg.TEST.NUM_ENSEMBLE_VIEWS]:
        return [run_test(_with_clips(cfg, count), trained, build) for count in counts][-1]
    device = start_run(cfg)
    model = build(cfg)
    tested, names = on_all(lambda: load_tested(model, cfg, trained))
    if not cfg.TRAIN.ENABLE:  # else the training run has written it, or another one has its own
        write_config(cfg, "config_test.yaml")
    model.to(device).eval()
    if cfg.MODEL.FOLD_CONV3D:
        try:
            model = optimize_for_inference(model, DTYPES.get(cfg.TEST.PRECISION))
        except NonFiniteError as error:
            raise NonFiniteError(f"{tested}: {error}") from error
    if cfg.TEST.COMPILE:
        compile_model(model)
    loader = build_test_loader(cfg, rank(), world_size())
    with StopRequest() as stop:
        table = score_videos(model, loader, cfg, device, stop)
    table.gather()
    paths = loader.dataset.videos.paths()
    stats = on_main(lambda: report(table, cfg, paths, names, device, str(tested)))
    return stats if is_main() else {}


def _with_clips(cfg: CfgNode, count: int) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_TEMPORAL_CLIPS = count, []
    cfg.freeze()
    return cfg


def load_tested(model: nn.Module, cfg: CfgNode, trained: Path | None) -> tuple[Path, list[str]]:
    """Loads into ``model`` what ``run_test`` tests: its file, and the names of the classes.

    The names beside the test's lists say what its labels mean; else those of the checkpoint count,
    or the classes are numbers.
    """
    weights = find_checkpoint(cfg, trained)
    warn_of_another_network(weights.path, weights.cfg, cfg)
    logger.info("Testing %s", load_into(model, weights))
    best = best_path(Path(cfg.OUTPUT_DIR) / "checkpoints")
    if not cfg.TEST.CHECKPOINT_FILE_PATH and best.exists() and weights.path != best:
        logger.info("It is the last one; TEST.CHECKPOINT best tests %s", best)
    return weights.path, _class_names(cfg, weights)


def _class_names(cfg: CfgNode, weights: Weights) -> list[str]:
    names, of_file = data_class_names(cfg, "test"), weights.class_names
    if not of_file or len(of_file) != cfg.MODEL.NUM_CLASSES:
        return names or [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]
    if names and names != of_file:
        label = next(i for i, name in enumerate(names) if name != of_file[i])
        logger.warning(
            "Class %d is %r in the data and %r in %s: where labels are numbered in another order, "
            "the accuracy is meaningless",
            label,
            names[label],
            of_file[label],
            weights.path,
        )
    return names or of_file


def find_checkpoint(cfg: CfgNode, trained: Path | None = None) -> Weights:
    """What ``run_test`` tests; with EMA.ENABLE, the averaged weights where the file has them.

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
    theirs = {"split": "test_iter", "cur_iter": str(done), "time_diff": stats["dt"]}  # PySlowFast's
    log_json_stats({**header, **theirs, **stats}, Path(cfg.OUTPUT_DIR), cfg.JSON_STATS_STEPS)


def report(
    table: ScoreTable,
    cfg: CfgNode,
    paths: list[str],
    names: list[str],
    device: torch.device,
    checkpoint: str,
) -> dict[str, Any]:
    """Writes the result files and logs the accuracies over the videos that could be scored.

    Of a list without labels there are the scores, and no accuracies.

    Raises:
        UserError: no video could be scored; or scores are not finite, of which no accuracy is made.
    """
    num_scored = int(table.scored.sum())
    kind = "pictures" if has_pictures(cfg, "test") else "videos"
    if not num_scored:
        raise UserError(f"none of the {len(paths)} {kind} of the test could be read")
    scores = table.ensemble(cfg.DATA.ENSEMBLE_METHOD)
    lost = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    counts: dict[str, Any] = {
        "checkpoint": checkpoint,
        "num_videos": num_scored,
        "num_missing": len(paths) - num_scored,
        "num_nonfinite": len(lost),
        "num_views": table.scores.shape[1],
    }
    _writing(lambda: write_scores(table, scores, cfg, paths, names))
    if len(lost):
        _log_final(cfg, counts, device)
        raise UserError(
            f"the scores of {len(lost)} of {num_scored} {kind} are nan or inf, so there is no "
            f"accuracy; the first is {paths[lost[0]]}, predictions.csv names all. Set "
            "TEST.PRECISION fp32 if it is not, or test an earlier checkpoint"
        )
    if (table.labels == UNLABELLED).all():
        _log_final(cfg, counts, device)
        text = "%d views of %d %s, %d missing: no labels, so no accuracy; see predictions.csv"
        logger.info(text, counts["num_views"], num_scored, kind, counts["num_missing"])
        return counts
    labels, best = table.labels[table.scored], scores[table.scored]
    top1, top5 = top_k_correct(torch.from_numpy(best), torch.from_numpy(labels)).tolist()
    matrix = confusion_matrix(labels, best.argmax(axis=1), cfg.MODEL.NUM_CLASSES)
    accuracies = {
        "top1_acc": 100 * top1 / num_scored,
        "top5_acc": 100 * top5 / num_scored,
        "mean_class_acc": 100 * mean_class_accuracy(matrix),
    }
    _log_final(cfg, {**accuracies, **counts}, device)
    summary = _summary(accuracies, counts, f"{num_scored} {kind}", cfg.MODEL.NUM_CLASSES)
    logger.info(summary)
    if worst := confusions(matrix)[:3]:
        totals = matrix.sum(axis=1)
        pairs = [f"{names[t]} as {names[p]} ({n} of {totals[t]})" for t, p, n in worst]
        logger.info("Most frequent confusions: %s", "; ".join(pairs))
    _writing(lambda: write_confusion_files(matrix, cfg, names, summary))
    return {**accuracies, **counts}


def _summary(
    accuracies: dict[str, float], counts: dict[str, Any], scored: str, num_classes: int
) -> str:
    views, missing = counts["num_views"], counts["num_missing"]
    top5 = f"top-5 {accuracies['top5_acc']:.2f} %, " if num_classes > 5 else ""
    return (
        f"{views} view{'s' if views > 1 else ''}: top-1 {accuracies['top1_acc']:.2f} %, {top5}"
        f"mean over classes {accuracies['mean_class_acc']:.2f} % of {scored}"
        + (f"; {missing} missing" if missing else "")
    )


def _log_final(cfg: CfgNode, stats: dict[str, Any], device: torch.device) -> None:
    """Accuracies are texts of two decimals, under ``split`` as well, as PySlowFast writes them."""
    texts = {key: f"{value:.2f}" for key, value in stats.items() if key.endswith("_acc")}
    header = {"_type": "test_final", "split": "test_final"}
    log_json_stats({**header, **stats, **texts, **memory_stats(device)}, Path(cfg.OUTPUT_DIR))


def write_scores(
    table: ScoreTable, scores: np.ndarray, cfg: CfgNode, paths: list[str], names: list[str]
) -> None:
    """The score table, where it is asked for, and what each video was taken for."""
    output_dir, method = Path(cfg.OUTPUT_DIR), cfg.DATA.ENSEMBLE_METHOD
    if cfg.TEST.SAVE_RESULTS_PATH:
        path = output_dir / cfg.TEST.SAVE_RESULTS_PATH
        table.save(path, paths, method)
        logger.info("Scores are in %s", path)
    mean = scores / table.scores.shape[1] if method == "sum" else scores
    write_predictions(output_dir / "predictions.csv", paths, table, mean, names)


def write_confusion_files(matrix: np.ndarray, cfg: CfgNode, names: list[str], title: str) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    write_class_accuracy(matrix, output_dir / "class_accuracy.csv", names)
    write_confusions(matrix, output_dir / "confusions.csv", names)
    write_confusion_matrix(matrix, output_dir / "confusion_matrix.png", names, title)


def _writing(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"can not write {error.filename}: {error.strerror}") from error
