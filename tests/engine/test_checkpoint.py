import os
import pickle

import pytest
import torch
from torch import nn

from octvideo.engine import checkpoint as ckpt
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.state import check_weights

CONTENT = {"epoch": 3, "model_state": {"w": torch.arange(5.0)}, "cfg": "A: 1\n"}


def test_round_trip_and_order_of_progress(tmp_path):
    paths = [ckpt.checkpoint_path(tmp_path, *p) for p in ((1, 0), (1, 7), (2, 0), (10, 0))]
    assert paths[0].name == "checkpoint_epoch_00001.pyth"
    for path in reversed(paths):
        ckpt.save_checkpoint(path, CONTENT)
    assert ckpt.list_checkpoints(tmp_path) == paths
    content = {}
    newest = ckpt.newest_first(tmp_path, lambda _, found: content.update(found))
    assert newest == paths[-1]
    assert content["epoch"] == 3
    assert torch.equal(content["model_state"]["w"], torch.arange(5.0))


def test_the_old_file_is_replaced_not_written_to(tmp_path):
    """Who has the old one open, or linked, keeps it whole: so would a loss of power."""
    path, link = ckpt.checkpoint_path(tmp_path, 1), tmp_path / "old.pyth"
    ckpt.save_checkpoint(path, CONTENT)
    os.link(path, link)
    ckpt.save_checkpoint(path, {**CONTENT, "epoch": 4})
    assert [ckpt.load_checkpoint(file)["epoch"] for file in (link, path)] == [3, 4]
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_broken_newest_file_is_skipped_with_a_warning(tmp_path, caplog):
    good, bad = (ckpt.checkpoint_path(tmp_path, n) for n in (1, 2))
    ckpt.save_checkpoint(good, CONTENT)
    ckpt.save_checkpoint(bad, CONTENT)
    bad.write_bytes(bad.read_bytes()[:-200])
    with caplog.at_level("WARNING", logger="octvideo"):
        assert ckpt.newest_first(tmp_path, lambda *_: None) == good
    assert bad.name in caplog.text


@pytest.mark.parametrize("cut", [0, 1, 100, 500])
def test_truncated_files_are_named(tmp_path, cut):
    path = ckpt.checkpoint_path(tmp_path, 1)
    ckpt.save_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=path.name):
        ckpt.load_checkpoint(path)


class _Touch:
    """Creates a file when it is unpickled by a reader that is not careful."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _plain_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [torch.save, _plain_pickle])
def test_a_hostile_file_runs_nothing(tmp_path, write):
    path, trace = tmp_path / "evil.pyth", tmp_path / "trace"
    write({"model_state": {}, "epoch": _Touch(trace)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pyth"):
        ckpt.load_checkpoint(path)
    assert not trace.exists()


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "other.pyth"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="model_state"):
        ckpt.load_checkpoint(path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        ckpt.load_checkpoint(tmp_path / "absent.pyth")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = ckpt.checkpoint_path(tmp_path, 1)
    ckpt.save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match=f"{path.name}.*No space left"):
        ckpt.save_checkpoint(path, {**CONTENT, "epoch": 4})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


FILES = [(1, 0), (2, 0), (3, 0), (3, 5), (3, 9), (4, 0)]


@pytest.mark.parametrize(
    ("newest", "keep", "done", "left"),
    [
        ((4, 0), 0, False, [(1, 0), (2, 0), (3, 0), (3, 9), (4, 0)]),
        ((4, 0), 0, True, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        ((4, 0), 1, False, [(3, 9), (4, 0)]),
        ((4, 0), 1, True, [(3, 9), (4, 0)]),  # never one file alone
        ((4, 0), 3, False, [(2, 0), (3, 0), (3, 9), (4, 0)]),
        ((3, 9), 1, False, [(3, 0), (3, 5), (3, 9), (4, 0)]),  # what is ahead is not ours
        ((3, 9), 9, False, [(1, 0), (2, 0), (3, 0), (3, 5), (3, 9), (4, 0)]),
    ],
)
def test_superseded_files_are_removed(tmp_path, newest, keep, done, left):
    for progress in FILES:
        ckpt.save_checkpoint(ckpt.checkpoint_path(tmp_path, *progress), CONTENT)
    ckpt.save_checkpoint(ckpt.best_path(tmp_path), CONTENT)
    ckpt.remove_superseded(tmp_path, ckpt.checkpoint_path(tmp_path, *newest), keep, done)
    assert ckpt.list_checkpoints(tmp_path) == [ckpt.checkpoint_path(tmp_path, *p) for p in left]
    assert ckpt.best_path(tmp_path).exists()


def test_weights_that_do_not_fit_are_listed(tmp_path):
    model = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    path = tmp_path / "x.pyth"
    torch.save(state, path)  # its size counts
    with pytest.raises(CheckpointError) as error:
        check_weights(model, state, path)
    for part in ("x.pyth", "weight: (2, 4) in the file, (2, 3)", "bias: missing", "extra: unknown"):
        assert part in str(error.value)
