"""The forms in which lists of videos come."""

import csv
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from octvideo.config import get_cfg
from octvideo.data.loader import data_class_names, read_split
from octvideo.data.sources.lists import UNLABELLED, read_list
from octvideo.utils.errors import UserError

PATHS = ["clips/a b.mp4", "clips/c,d.mp4", 'clips/e"f".mp4', "clips/g;h.mp4"]
LABELS = [3, 0, 12, 1]


def listed(path: Path, **options: object) -> list[tuple[str, int]]:
    videos = read_list(path, **options)
    return [(videos.listed(i), int(videos.labels[i])) for i in range(len(videos))]


def written_by_csv(delimiter: str, quoting: int, header: bool, ending: str = "\r\n") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    if header:
        writer.writerow(["path", "label"])
    writer.writerows(zip(PATHS, LABELS, strict=True))
    return text.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("header", [True, False])
def test_what_the_csv_module_writes(tmp_path, delimiter, quoting, header):
    text = written_by_csv(delimiter, quoting, header)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "train.csv").write_bytes(text.encode(encoding))
        assert listed(tmp_path / "train.csv") == list(zip(PATHS, LABELS, strict=True))


def test_columns_are_found_by_their_names(tmp_path):
    # as DataFrame.to_csv writes it, with its index
    (tmp_path / "train.csv").write_text(",label,frames,File_Name\n0,3,120,a b.mp4\n1,4,90,c.mp4\n")
    assert listed(tmp_path / "train.csv") == [("a b.mp4", 3), ("c.mp4", 4)]


@pytest.mark.parametrize(
    "content",
    [
        [["a b.mp4", 3], ["c.mp4", 0]],
        [{"path": "a b.mp4", "label": 3}, {"path": "c.mp4", "label": "0"}],
        {"a b.mp4": 3, "c.mp4": 0},
    ],
)
def test_json(tmp_path, content):
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert listed(tmp_path / "train.json") == [("a b.mp4", 3), ("c.mp4", 0)]


@pytest.mark.parametrize("content", ["{", '"a"', "[[1, 2]]", "[3]", '[["a", true]]'])
def test_json_of_something_else(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UserError, match=r"train\.json"):
        read_list(tmp_path / "train.json")


def test_only_line_breaks_end_a_line(tmp_path):
    names = ["a\u2028b.mp4", "c\x0bd\x1ce.mp4", "f\x85g\u3000h.mp4"]
    (tmp_path / "train.csv").write_text("".join(f"{name} 1\n" for name in names))
    assert listed(tmp_path / "train.csv") == [(name, 1) for name in names]
    (tmp_path / "train.csv").write_bytes(b"a.mp4 1\rb.mp4 0\r")  # of an old spreadsheet
    assert listed(tmp_path / "train.csv") == [("a.mp4", 1), ("b.mp4", 0)]


@pytest.mark.parametrize("path", ["a,b.mp4", "/x y/a;b.mp4", "a\tb.mp4", "a, b/c.mp4"])
def test_separators_in_the_first_path(tmp_path, path):
    (tmp_path / "train.csv").write_text(f"{path} 3\nc.mp4 0\n")
    assert listed(tmp_path / "train.csv") == [(path, 3), ("c.mp4", 0)]


def test_a_comma_and_a_blank_between_path_and_label(tmp_path):
    (tmp_path / "train.csv").write_text("a b.mp4, 3\nc.mp4, 0\n")
    assert listed(tmp_path / "train.csv") == [("a b.mp4", 3), ("c.mp4", 0)]


def test_home_folders_and_backslashes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in ("home/a.mp4", "list/sub/b.mp4", "list/c\\d.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "list" / "x.csv").write_text("~/a.mp4 0\nsub\\b.mp4 1\nc\\d.mp4 2\n")
    found = read_list(tmp_path / "list" / "x.csv").paths()
    assert found == [str(tmp_path / p) for p in ("home/a.mp4", "list/sub/b.mp4", "list/c\\d.mp4")]
    assert (
        read_list(tmp_path / "list" / "x.csv", prefix="~").path(1) == f"{tmp_path}/home/sub\\b.mp4"
    )


def test_three_fields_as_in_pyslowfast(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 300 5\nb.mp4 12 0\n")
    assert listed(tmp_path / "train.csv") == [("a.mp4", 5), ("b.mp4", 0)]
    # "take 2.mp4" is a name with a blank, unless the disk says otherwise
    (tmp_path / "train.csv").write_text("take 2.mp4 5\ntake 3.mp4 0\n")
    assert listed(tmp_path / "train.csv") == [("take 2.mp4", 5), ("take 3.mp4", 0)]
    (tmp_path / "take").touch()
    assert listed(tmp_path / "train.csv") == [("take", 5), ("take", 0)]
    (tmp_path / "take 3.mp4").touch()
    assert listed(tmp_path / "train.csv") == [("take 2.mp4", 5), ("take 3.mp4", 0)]


def test_labels_that_are_missing(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("a b.mp4\nc.mp4\nclip 7\n")
    with pytest.raises(UserError, match="line 1: the label must be an integer"):
        read_list(path)
    with pytest.raises(UserError, match="line 1"):
        read_list(path, unlabelled="all")  # the last line has one: a mistake in the others
    wanted = [("a b.mp4", UNLABELLED), ("c.mp4", UNLABELLED)]
    assert listed(path, unlabelled="any")[:2] == wanted
    path.write_text("a b.mp4\nc.mp4\nd.mp4 -1\n")
    assert listed(path, unlabelled="all") == [*wanted, ("d.mp4", UNLABELLED)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4 " + "1" * 4301, "4301 digits"),
        ("a.mp4 99999999999999999999", "20 digits"),
        ("a" * 140_000 + ".mp4 0", "140004 characters"),
        ("path,label\n" + "a" * 140_000 + ",0", "line 2"),
    ],
)
def test_lines_out_of_all_proportion(tmp_path, line, message):
    (tmp_path / "train.csv").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message) as error:
        read_list(tmp_path / "train.csv")
    assert len(str(error.value)) < 1000


def test_two_files_of_one_name_are_said(tmp_path, monkeypatch):
    for folder in ("here", "list"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").touch()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "list" / "train.csv").write_text("a.mp4 0\n")
    [finding] = read_list(tmp_path / "list" / "train.csv").findings
    assert "DATA.PATH_PREFIX" in finding.text
    (tmp_path / "here" / "a.mp4").unlink()
    (tmp_path / "here" / "a.mp4").symlink_to(tmp_path / "list" / "a.mp4")
    assert not read_list(tmp_path / "list" / "train.csv").findings


# --------------------------------------------------------------------------- lists of a data set


def config(folder: Path, num_classes: int):
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(folder), num_classes
    return cfg


def test_labels_in_words(tmp_path):
    (tmp_path / "train.csv").write_text("path,label\na.mp4,playing guitar\nb.mp4,cooking\n")
    (tmp_path / "val.csv").write_text("c d.mp4,playing guitar\n")
    cfg = config(tmp_path, 2)
    assert read_split(cfg, "train").labels.tolist() == [1, 0]
    assert read_split(cfg, "val").labels.tolist() == [1]
    assert data_class_names(cfg) == ["cooking", "playing guitar"]
    with pytest.raises(UserError, match=r"set MODEL\.NUM_CLASSES 2"):
        read_split(config(tmp_path, 1), "train")
    (tmp_path / "class_names.json").write_text('["playing guitar", "cooking"]')
    assert read_split(cfg, "train").labels.tolist() == [0, 1]
    (tmp_path / "val.csv").write_text("c d.mp4,dancing\n")
    with pytest.raises(UserError, match=r"val\.csv, line 1: .*'dancing'"):
        read_split(cfg, "val")


@pytest.mark.parametrize("text", ["path,label\n{}.mp4,{}\n", "{}.mp4,{}\n", "{}.mp4 {}\n"])
@pytest.mark.parametrize("label", ["1.0", "-1", "+2", "1e0", ".5", "3."])
def test_numbers_are_no_words(tmp_path, text, label):
    """pandas writes 1.0 where a column has an empty field: as a class name it would become 0."""
    (tmp_path / "train.csv").write_text(text.format("a", label))
    with pytest.raises(UserError, match="the label must be an integer from 0"):
        read_list(tmp_path / "train.csv")
    (tmp_path / "class_names.json").write_text(json.dumps(["walking", label]))
    assert read_list(tmp_path / "train.csv").labels.tolist() == [1]  # said to be a name


def test_a_json_list_stands_for_csv(tmp_path):
    (tmp_path / "train.json").write_text('{"a.mp4": 0, "b.mp4": 1}')
    assert read_split(config(tmp_path, 2), "train").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 400, "from 1 to 8 and are never 0"),
        ([1, 2, 1], 3, "from 1 to 2 and are never 0"),
        ([0, 1, 2], 400, r"MODEL.NUM_CLASSES 3 would fit"),
        ([0, 2, 2], 3, "2 of the 3 classes of MODEL.NUM_CLASSES; none of 1"),
        ([0, 1, 2], 3, ""),
    ],
)
def test_unlikely_labels_are_said(tmp_path, caplog, labels, num_classes, message):
    (tmp_path / "train.csv").write_text("".join(f"{n}.mp4 {n}\n" for n in labels))
    with caplog.at_level(logging.WARNING):
        read_split(config(tmp_path, num_classes), "train")  # as a check before the run
        assert not caplog.text
        found = read_split(config(tmp_path, num_classes), "train", report=True).labels
    assert found.tolist() == labels
    assert message in caplog.text if message else not caplog.text


def test_a_test_without_labels(tmp_path, caplog):
    (tmp_path / "test.csv").write_text("a b.mp4\nc.mp4\n")
    videos = read_split(config(tmp_path, 5), "test", report=True)
    np.testing.assert_array_equal(videos.labels, [UNLABELLED, UNLABELLED])
    assert videos.listed(0) == "a b.mp4"
    assert "has no labels" in caplog.text
    (tmp_path / "val.csv").write_text("a b.mp4\n")
    with pytest.raises(UserError, match=r"val\.csv, line 1"):
        read_split(config(tmp_path, 5), "val")
