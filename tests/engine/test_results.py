"""The files that a test writes: what each video was taken for, and which classes are confused."""

import csv
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from octvideo.config import load_cfg
from octvideo.data.sources.lists import UNLABELLED
from octvideo.engine import run_test, run_train
from octvideo.engine.confusion import (
    confusion_matrix,
    confusions,
    mean_class_accuracy,
    write_class_accuracy,
    write_confusion_matrix,
    write_confusions,
)
from octvideo.engine.results import Report, ScoreTable, write_predictions
from support import ROOT

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_matrix_and_the_mean_are_those_of_scikit_learn():
    """The examples of its documentation, with what it prints."""
    matrix = confusion_matrix(np.array([2, 0, 2, 2, 0, 1]), np.array([0, 0, 2, 2, 0, 2]), 3)
    assert matrix.tolist() == [[2, 0, 0], [0, 0, 1], [1, 0, 2]]
    matrix = confusion_matrix(np.array([0, 1, 0, 0, 1, 0]), np.array([0, 1, 0, 0, 0, 1]), 2)
    assert mean_class_accuracy(matrix) == pytest.approx(0.625)  # balanced_accuracy_score
    # A class without videos has no part in the mean.
    matrix = confusion_matrix(np.array([0, 1, 0, 0, 1, 0]), np.array([0, 1, 0, 0, 0, 1]), 3)
    assert mean_class_accuracy(matrix) == pytest.approx(0.625)


def test_classes_and_confusions_have_their_names(tmp_path):
    names = ["wave, hello", "clap", "jump"]
    matrix = np.array([[1, 0, 4], [1, 2, 0], [0, 0, 0]])
    write_class_accuracy(matrix, tmp_path / "classes.csv", names)
    assert read(tmp_path / "classes.csv") == [
        {"label": "0", "class": "wave, hello", "num_videos": "5", "top1_acc": "20.00"},
        {"label": "1", "class": "clap", "num_videos": "3", "top1_acc": "66.67"},
        {"label": "2", "class": "jump", "num_videos": "0", "top1_acc": ""},
    ]
    assert confusions(matrix) == [(0, 2, 4), (1, 0, 1)]
    write_confusions(matrix, tmp_path / "confusions.csv", names)
    assert read(tmp_path / "confusions.csv") == [
        {"class": "wave, hello", "predicted": "jump", "num_videos": "4", "share": "80.00"},
        {"class": "clap", "predicted": "wave, hello", "num_videos": "1", "share": "33.33"},
    ]


@pytest.mark.parametrize("count", [3, pytest.param(400, marks=pytest.mark.slow)])
def test_a_confusion_of_a_few_percent_is_seen(tmp_path, monkeypatch, count):
    """Its cell differs from the paper as clearly as a grey of a third does, in any size."""
    pytest.importorskip("matplotlib", reason="the image needs matplotlib")
    from matplotlib.figure import Figure
    from PIL import Image

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **kw: (drawn.append(self), save(self, *a, **kw))
    )
    matrix = 97 * np.eye(count, dtype=int)
    matrix[0, count - 1] = 3
    names = [f"class ${i}" for i in range(count)]
    write_confusion_matrix(matrix, tmp_path / "matrix.png", names, "top-1 99 %")
    axes = drawn[0].axes[0]
    assert axes.get_title() == "top-1 99 %"
    shown = [label.get_text().replace("\\", "") for label in axes.get_yticklabels()]
    assert shown == names
    image = axes.get_images()[0]
    colors = image.cmap(image.norm(image.get_array()))[..., :3]
    assert np.abs(colors[0, count - 1] - 1).max() > 1 / 3
    assert image.get_array().mask[1, 0]
    pixels = np.asarray(Image.open(tmp_path / "matrix.png").convert("RGB"), float)
    wanted = 255 * colors[0, count - 1]
    assert (np.abs(pixels - wanted).max(axis=2) < 2).sum() >= 9  # of a cell, three by three


def test_without_matplotlib_there_is_a_line_and_no_image(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO", logger="octvideo"):
        write_confusion_matrix(np.eye(2, dtype=int), tmp_path / "confusion.png", ["a", "b"])
    assert re.search(r"pip install .*(matplotlib|\[plot\])", caplog.text)
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_what_pyslowfast_writes(tmp_path):
    """[scores, labels], two tensors: the sum over the views, zeros where there is no video."""
    table = ScoreTable(np.array([0, 1]), num_views=2, num_classes=3)
    table.put(0, np.array([[0.6, 0.4, 0.0], [0.6, 0.1, 0.3]]))
    table.save(tmp_path / "results.pkl", ["a.mp4", "b.mp4"], "sum")
    with open(tmp_path / "results.pkl", "rb") as file:
        scores, labels = pickle.load(file)
    assert (scores.dtype, labels.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(scores, torch.tensor([[1.2, 0.5, 0.3], [0.0, 0.0, 0.0]]))
    assert labels.tolist() == [0, 1]


def test_predictions_say_what_each_video_was_taken_for(tmp_path):
    paths = ["a b.mp4", "c,d.mp4", "nan.mp4", b"\xff.mp4".decode(errors="surrogateescape")]
    table = ScoreTable(np.array([2, 0, 1, 1]), num_views=1, num_classes=3)
    scores = np.array([[0.1, 0.2, 0.7], [0.5, 0.1, 0.4], [np.nan, 0, 0], [0, 0, 0]], np.float32)
    for video in range(3):
        table.put(video, scores[video][None])
    write_predictions(tmp_path / "p.csv", paths, table, scores, ["x", "y", "z"])
    with open(tmp_path / "p.csv", newline="", errors="surrogateescape", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label", *["class1", "score1", "class2", "score2", "class3", "score3", "note"]],
        ["a b.mp4", "z", "z", "0.7", "y", "0.2", "x", "0.1", ""],
        ["c,d.mp4", "x", "x", "0.5", "z", "0.4", "y", "0.1", ""],
        ["nan.mp4", "y", *[""] * 6, "scores are not finite"],
        [paths[3], "y", *[""] * 6, "could not be read"],
    ]


def test_the_files_of_a_run_agree_with_its_score_table(tiny_opts, tiny_set):
    more = ["SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0"]
    cfg = load_cfg(CFG, [*tiny_opts, *more])
    result = run_test(cfg, run_train(cfg))
    folder = Path(cfg.OUTPUT_DIR)
    names = {int(label): name for name, label in _names(tiny_set).items()}
    with np.load(folder / "scores.npz") as saved:
        mean, labels, paths = saved["scores"].mean(axis=1), saved["labels"], saved["paths"]
    rows = read(folder / "predictions.csv")
    assert [row["path"] for row in rows] == paths.tolist()
    assert [row["label"] for row in rows] == [names[label] for label in labels]
    for row, scores in zip(rows, mean, strict=True):
        order = np.argsort(-scores)
        assert [row[f"class{i}"] for i in range(1, 6)] == [names[c] for c in order[:5]]
        assert float(row["score1"]) == pytest.approx(scores.max(), rel=1e-5)
    right = mean.argmax(axis=1) == labels
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    assert result["mean_class_acc"] == pytest.approx(100 * np.mean(recalls))
    assert {row["class"] for row in read(folder / "class_accuracy.csv")} == set(names.values())
    wrong = sum(int(row["num_videos"]) for row in read(folder / "confusions.csv"))
    assert wrong == (~right).sum()


def _names(folder: Path) -> dict[str, int]:
    import json

    return json.loads((folder / "class_names.json").read_text())


def test_five_classes_have_no_top_5(tiny_opts, tiny_set, tmp_path):
    for split in ("train", "val", "test"):
        rows = [row.rpartition(" ") for row in (tiny_set / f"{split}.csv").read_text().splitlines()]
        few = [f"{tiny_set}/{path} {int(label) % 5}\n" for path, _, label in rows[:6]]
        (tmp_path / f"{split}.csv").write_text("".join(few))
    more = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "MODEL.NUM_CLASSES", "5"]
    cfg = load_cfg(CFG, [*tiny_opts, *more, "SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0"])
    run_test(cfg, run_train(cfg))
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "top-1 " in log
    assert "top-5" not in log
    assert [row["label"] for row in read(Path(cfg.OUTPUT_DIR) / "class_accuracy.csv")] == [*"01234"]


def test_a_list_without_labels_has_predictions_and_no_accuracy(tmp_path, caplog):
    table = ScoreTable(np.array([UNLABELLED, UNLABELLED]), 1, 8)
    for video, best in enumerate((3, 5)):
        table.put(video, np.eye(8, dtype=np.float32)[[best]])
    names = list("abcdefgh")
    with caplog.at_level("INFO", logger="octvideo"):
        result, problem = Report(tmp_path)(table, ["x.mp4", "y.mp4"], names)
    assert not problem
    assert not [key for key in result if "acc" in key or "top1" in key]
    assert "%" not in caplog.text
    rows = read(tmp_path / "predictions.csv")
    assert [(r["path"], r["label"], r["class1"]) for r in rows] == [
        ("x.mp4", "", "d"), ("y.mp4", "", "f"),
    ]  # fmt: skip
    assert not (tmp_path / "confusion_matrix.png").exists()
