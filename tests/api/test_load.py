"""A training run, a checkpoint or a published model, in one call of a script."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

import octvideo
from octvideo.api.loading import load_trained
from octvideo.config import dump, load_cfg
from support import load_tool

NAMES = [f"name {i}" for i in range(8)]


@pytest.fixture
def run_folder(small, tmp_path):
    """A run of two epochs whose checkpoints differ; returns how to add a checkpoint."""
    cfg = load_cfg(small.cfg, small.opts)
    state = torch.load(small.checkpoint)["model_state"]
    (tmp_path / "checkpoints").mkdir()

    def add(name: str, roll: int, with_cfg: bool = True) -> str:
        bias = state["head.projection.bias"]
        own = {**state, "head.projection.bias": bias + 1000 * (torch.arange(len(bias)) == roll)}
        content = {"epoch": 1, "model_state": own, "class_names": NAMES}
        path = tmp_path / "checkpoints" / name
        torch.save(content | ({"cfg": dump(cfg)} if with_cfg else {}), path)
        return str(path)

    add("checkpoint_epoch_00001.pyth", 1)
    add("checkpoint_epoch_00002.pyth", 2)
    return tmp_path, add


def biggest(model: torch.nn.Module) -> int:
    return int(model.head.projection.bias.argmax())


def test_the_newest_or_the_best_of_a_run(run_folder):
    folder, add = run_folder
    model = octvideo.load(folder)
    assert biggest(model) == 2
    assert not model.training
    assert model.class_names == NAMES
    assert biggest(octvideo.load(str(folder / "checkpoints"))) == 2
    assert biggest(octvideo.load(folder / "checkpoints/checkpoint_epoch_00001.pyth")) == 1
    add("checkpoint_epoch_00002_step_000007.pyth", 3)
    assert biggest(octvideo.load(folder)) == 3
    add("checkpoint_best.pyth", 4)
    assert biggest(octvideo.load(folder)) == 4


def test_an_address(small, run_folder, monkeypatch):
    folder, _ = run_folder
    file, asked = folder / "checkpoints/checkpoint_epoch_00001.pyth", []
    monkeypatch.setattr("octvideo.weights.read.fetch", lambda *a: asked.append(a[0]) or file)
    address = "https://example.org/run/checkpoint.pyth"
    assert biggest(octvideo.load(address)) == 1
    [best] = octvideo.predict(small.videos[0], address, fast=True, topk=1)
    assert best[0] == "name 1"
    assert asked == [address] * 2


def test_a_run_in_the_home_folder(run_folder, monkeypatch):
    folder, _ = run_folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert biggest(octvideo.load(f"~/{folder.name}")) == 2


def test_a_damaged_newest_checkpoint(run_folder, caplog):
    folder, _ = run_folder
    newest = folder / "checkpoints/checkpoint_epoch_00002.pyth"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert biggest(octvideo.load(folder)) == 1
    assert str(newest) in caplog.text


def test_predict_takes_what_load_takes(small, run_folder):
    folder, add = run_folder
    [video, *_] = small.videos
    model = load_trained(small.cfg, folder / "checkpoints/checkpoint_epoch_00002.pyth", small.opts)
    wanted = octvideo.predict(video, model, fast=True)
    wanted = [(NAMES[int(label.rsplit(" ", 1)[1])], score) for label, score in wanted]
    for source in (folder, str(folder), str(folder / "checkpoints/checkpoint_epoch_00002.pyth")):
        assert octvideo.predict(video, source, fast=True) == wanted
    features = octvideo.extract_features(video, str(folder), fast=True)
    assert (features == octvideo.extract_features(video, model, fast=True)).all()
    add("checkpoint_best.pyth", 5)  # as a training run that is still at work
    assert octvideo.predict(video, folder, fast=True)[0][0] == "name 5"
    add("checkpoint_best.pyth", 6)
    assert octvideo.predict(video, folder, fast=True)[0][0] == "name 6"


def test_the_tools_take_the_folder_of_a_run(small, run_folder, tmp_path, capsys):
    folder, add = run_folder
    add("checkpoint_best.pyth", 5)
    predict, extract = load_tool("predict"), load_tool("extract_features")
    options = ["--fast", str(small.videos[0]), "--checkpoint"]
    assert predict.main(["--json", *options, str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0][0] == "name 5"
    (tmp_path / "list.csv").write_text(f'path,label\n"{small.videos[0]}",x\n{small.videos[1]},y\n')
    listed = ["--json", "--fast", "--list", str(tmp_path / "list.csv"), "--checkpoint", str(folder)]
    assert predict.main(listed) == 0
    told = [json.loads(line)["video"] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(small.videos[0]), str(small.videos[1])]
    assert predict.main(["--checkpoint", str(folder)]) == 2
    features = ["--workers", "0", "--out", str(tmp_path / "f.npz"), *options]
    assert extract.main([*features, str(folder)]) == 0
    assert predict.main([*options, str(tmp_path / "none")]) == 2
    (tmp_path / "bare").mkdir()
    assert predict.main([*options, str(tmp_path / "bare")]) == 2


def test_weights_without_a_configuration(small, run_folder):
    folder, add = run_folder
    bare = add("checkpoint_best.pyth", 7, with_cfg=False)
    with pytest.raises(octvideo.UserError, match="cfg=FILE"):
        octvideo.load(bare)
    assert biggest(octvideo.load(bare, cfg=small.cfg)) == 7
    (folder / "config.yaml").write_text(dump(load_cfg(small.cfg, small.opts)))
    assert biggest(octvideo.load(folder)) == 7


@pytest.mark.parametrize("source", ["no/such/run", "none.pyth", "i3d_of_nobody", "."])
def test_nothing_to_load(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(octvideo.UserError, match=source.replace(".", r"\.")):
        octvideo.load(source)


def test_names_at_the_top_level(tmp_path):
    from octvideo.data import VideoError
    from octvideo.data.protocol import Protocol
    from octvideo.utils.errors import UserError

    assert octvideo.VideoError is VideoError
    assert octvideo.UserError is UserError
    assert octvideo.ViewSettings is octvideo.Protocol is Protocol
    assert set(octvideo.__all__) <= set(dir(octvideo))
    for name in octvideo.__all__:
        assert getattr(octvideo, name) is not None
    assert pickle.loads(pickle.dumps(octvideo.ViewSettings(8, 8))) == Protocol(8, 8)
    code = "import sys, octvideo; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.strip() == "False"
