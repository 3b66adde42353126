"""Runs that start from, or test, files of other projects."""

import json
import pickle
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from octvideo.config import dump, load_cfg
from octvideo.engine import CheckpointError, run_test, run_train, save_checkpoint
from octvideo.engine.start import check_run
from octvideo.engine.test import load_tested
from octvideo.engine.train import build_trainer
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from octvideo.weights import zoo
from octvideo.weights.zoo import zoo_entry
from support import ROOT

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"
CPU = torch.device("cpu")


@pytest.fixture
def opts(tiny_opts):
    """Options -> the configuration of a tiny octave I3D."""
    return lambda *more: load_cfg(CFG, [*tiny_opts, *map(str, more)])


def random_state(cfg, seed=5):
    torch.manual_seed(seed)
    return {
        k: v + 0.1 if v.is_floating_point() else v for k, v in build_model(cfg).state_dict().items()
    }


def save_state(state, path):
    path.parent.mkdir()
    torch.save({"model_state": state}, path)


def assert_same(model, state, but="none"):
    for key, value in model.state_dict().items():
        assert key.startswith(but) or torch.equal(value, state[key]), key


def start(cfg):
    trainer = build_trainer(cfg, CPU)
    trainer.start()
    return trainer


@pytest.fixture
def caffe2_file(shared, opts, tmp_path):
    """A Caffe2 pickle for the tiny network, and the parameters in it."""
    state = random_state(opts())
    names = json.loads((shared / "data/pyslowfast/c2_to_pt_names.json").read_text())["I3D_8x8_R50"]
    blobs = {theirs: state[ours].numpy() for theirs, ours in names.items() if ours in state}
    (tmp_path / "I3D.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    return tmp_path / "I3D.pkl", state


@pytest.mark.parametrize("key", ["pytorch", "caffe2", "mxnet"])
def test_training_from_a_caffe2_file(opts, caffe2_file, key):
    """Its format is recognised, whatever the key says."""
    path, state = caffe2_file
    trainer = start(opts("TRAIN.CHECKPOINT_FILE_PATH", path, "TRAIN.CHECKPOINT_TYPE", key))
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)
    assert_same(trainer.model, state)


def test_training_from_an_address(opts, tmp_path, monkeypatch):
    """By address, as PySlowFast's configurations name files, and by name. A check fetches none."""
    state = random_state(opts())
    save_state(state, tmp_path / "zoo" / "weights.pyth")
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        address = f"http://127.0.0.1:{server.server_port}/zoo/weights.pyth"
        entry = replace(zoo_entry("i3d_8x8_r50_k400_pysf"), name="mine", address=address)
        monkeypatch.setitem(zoo._BY_NAME, "mine", entry)
        try:
            for source in (address, "mine"):
                cfg = opts("TRAIN.CHECKPOINT_FILE_PATH", source)
                check_run(cfg)
                assert (tmp_path / "cache").exists() == (source == "mine")
                assert_same(start(cfg).model, state)
        finally:
            server.shutdown()
    tested = build_model(opts())
    load_tested(tested, opts("TEST.CHECKPOINT_FILE_PATH", "mine"), None)  # from the cache
    assert_same(tested, state)


def test_texts_to_clear_reach_training_and_test(opts, tmp_path):
    state = random_state(opts())
    path = tmp_path / "m.pyth"
    torch.save({"model_state": {k.replace(".", ".mine.", 1): v for k, v in state.items()}}, path)
    clear = ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "['mine.']")
    assert_same(start(opts("TRAIN.CHECKPOINT_FILE_PATH", path, *clear)).model, state)
    tested = build_model(opts())
    load_tested(tested, opts("TEST.CHECKPOINT_FILE_PATH", path, *clear), None)
    assert_same(tested, state)


def test_names_of_the_zoo_that_do_not_help(opts):
    with pytest.raises(UserError, match=r"there is no file i3d_pysf, nor .*list_pretrained"):
        check_run(opts("TRAIN.CHECKPOINT_FILE_PATH", "i3d_pysf"))
    with pytest.raises(UserError, match="has no weights yet"):
        check_run(opts("TRAIN.CHECKPOINT_FILE_PATH", "oct_i3d_8x8_k400"))


def test_testing_a_caffe2_file(opts, caffe2_file, tmp_path):
    path, state = caffe2_file
    own = tmp_path / "own.pyth"
    torch.save({"model_state": state}, own)
    scores = []
    for file in (path, own):
        output_dir = tmp_path / file.stem
        run_test(opts("TEST.CHECKPOINT_FILE_PATH", file, "OUTPUT_DIR", output_dir))
        scores.append(np.load(output_dir / "scores.npz")["scores"])
    np.testing.assert_array_equal(*scores)


def test_a_2d_network_is_inflated(opts, tmp_path):
    c2d = random_state(load_cfg(ROOT / "configs/Synthetic/C2D.yaml"))
    path = tmp_path / "R50_IN1K.pyth"
    flat = {key: value.squeeze(2) if value.ndim == 5 else value for key, value in c2d.items()}
    torch.save({"model_state": flat}, path)
    cfg = opts("TRAIN.CHECKPOINT_FILE_PATH", path, "TRAIN.CHECKPOINT_INFLATE", True)
    kernel = start(cfg).model.state_dict()["s1.pathway0_stem.conv.weight"]
    assert kernel.shape[2] == 5
    torch.testing.assert_close(kernel.sum(2), c2d["s1.pathway0_stem.conv.weight"][:, :, 0])
    with pytest.raises(CheckpointError, match=r"set TRAIN\.CHECKPOINT_INFLATE True"):
        start(opts("TRAIN.CHECKPOINT_FILE_PATH", path))


@pytest.mark.parametrize(
    ("theirs", "ours", "warning"),
    [
        ({}, {}, None),
        ({"POOL_STRIDE": True}, {}, None),  # without effect where all stages are octave
        ({"STAGES": [2, 3, 4]}, {"STAGES": [2, 3, 4], "POOL_STRIDE": True}, None),  # our recipes
        ({"STAGES": [2, 3, 4]}, {"STAGES": [2, 3, 4]}, "OCTAVE.POOL_STRIDE was True, is False"),
        ({"ALPHA": 0.5}, {}, "OCTAVE.ALPHA was 0.5, is 0.25"),
        ({"STAGES": [2, 3, 4]}, {}, "OCTAVE.STAGES was [2, 3, 4], is [2, 3, 4, 5]"),
        ({"ENABLE": False, "ALPHA": 0.5}, {}, "OCTAVE.ENABLE was False, is True"),
        ({"ALPHA": 0.5}, {"ENABLE": False}, "OCTAVE.ENABLE was True, is False"),
        ({"ENABLE": False, "ALPHA": 0.5}, {"ENABLE": False}, None),
    ],
)
def test_weights_of_another_split_are_told(opts, tmp_path, caplog, theirs, ours, warning):
    def pairs(octave):
        return [pair for key, value in octave.items() for pair in (f"OCTAVE.{key}", value)]

    base = {"ENABLE": True, "ALPHA": 0.25, "STAGES": [2, 3, 4, 5]}
    small = ["RESNET.WIDTH_PER_GROUP", 8, "MODEL.NUM_CLASSES", 8]
    cfg2d = load_cfg(
        ROOT / "configs/Synthetic/OCT_RESNET26.yaml", [*small, *pairs({**base, **theirs})]
    )
    path = tmp_path / "2d.pyth"
    torch.save({"model_state": random_state(cfg2d), "epoch": 0, "cfg": dump(cfg2d)}, path)
    inflate = ("TRAIN.CHECKPOINT_FILE_PATH", path, "TRAIN.CHECKPOINT_INFLATE", True)
    with caplog.at_level("WARNING", logger="octvideo"):
        start(opts(*inflate, "RESNET.DEPTH", 26, *pairs(ours)))
    told = [m.partition(". Weights")[0] for m in caplog.messages if "another network" in m]
    assert told == ([f"{path} was trained as another network: {warning}"] if warning else [])


def test_another_number_of_classes(opts, tmp_path, caplog):
    state = random_state(opts("MODEL.NUM_CLASSES", 11))
    path = tmp_path / "eleven.pyth"
    torch.save({"model_state": state}, path)
    with caplog.at_level("INFO", logger="octvideo"):
        trainer = start(opts("TRAIN.CHECKPOINT_FILE_PATH", path))
    (warning,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert "11 classes, the model has 8" in warning.getMessage()
    assert "head.projection.bias: (11,) in the file, (8,) in the model" in caplog.text
    assert_same(trainer.model, state, but="head.")
    with pytest.raises(CheckpointError, match=r"eleven\.pyth.*MODEL\.NUM_CLASSES"):
        run_test(opts("TEST.CHECKPOINT_FILE_PATH", path))


def test_starting_from_a_file_and_resuming_are_never_mixed(opts, tmp_path):
    run_train(opts("SOLVER.MAX_EPOCH", 1, "TRAIN.EVAL_PERIOD", 0))
    (own,) = Path(opts().OUTPUT_DIR).glob("checkpoints/*.pyth")
    content = torch.load(own)
    # PySlowFast would go on at epoch 100 from such a file, with its optimizer
    state = random_state(opts())
    other = tmp_path / "other.pyth"
    torch.save({**content, "model_state": state, "epoch": 99}, other)

    resumed = start(opts("TRAIN.CHECKPOINT_FILE_PATH", other))
    assert (resumed.progress.epoch, resumed.progress.step) == (1, 0)
    assert_same(resumed.model, content["model_state"])
    assert resumed.optimizer.state_dict()["state"]
    assert f"{other} is not read" in (Path(opts().OUTPUT_DIR) / "stdout.log").read_text()

    new = start(opts("TRAIN.CHECKPOINT_FILE_PATH", other, "TRAIN.AUTO_RESUME", False))
    assert "checkpoints of an earlier run" in (Path(opts().OUTPUT_DIR) / "stdout.log").read_text()
    assert (new.progress.epoch, new.progress.step) == (0, 0)
    assert_same(new.model, state)
    assert not new.optimizer.state_dict()["state"]


@pytest.fixture
def their_run(opts, tmp_path):
    """A checkpoint as PySlowFast writes it after 7 epochs, and what is in it."""
    cfg = opts("SOLVER.MAX_EPOCH", 8)
    optimizer = build_trainer(cfg, CPU).optimizer
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 0.5)
    content = {"epoch": 6, "model_state": random_state(cfg), "cfg": dump(cfg)}
    content["optimizer_state"] = optimizer.state_dict()
    torch.save(content, tmp_path / "i3d.pyth")
    return tmp_path / "i3d.pyth", content


def test_a_training_of_pyslowfast_goes_on_as_there(opts, their_run, caplog):
    path, content = their_run
    trainer = start(opts("SOLVER.MAX_EPOCH", 8, "TRAIN.CHECKPOINT_FILE_PATH", path))
    assert (trainer.progress.epoch, trainer.progress.step) == (7, 0)
    assert_same(trainer.model, content["model_state"])
    momenta = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    assert momenta
    assert all((momentum == 0.5).all() for momentum in momenta)
    assert "TRAIN.CHECKPOINT_EPOCH_RESET True" in caplog.text
    assert "is not read" not in caplog.text


@pytest.mark.parametrize(
    "change", [("TRAIN.CHECKPOINT_EPOCH_RESET", True), ("MODEL.NUM_CLASSES", 9)]
)
def test_a_new_training_from_a_file_of_pyslowfast(opts, their_run, caplog, change):
    path, content = their_run
    trainer = start(opts("SOLVER.MAX_EPOCH", 8, "TRAIN.CHECKPOINT_FILE_PATH", path, *change))
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)
    assert_same(trainer.model, content["model_state"], but="head.projection")
    assert not trainer.optimizer.state
    assert ("so a new one starts" in caplog.text) == (change[0] == "MODEL.NUM_CLASSES")


@pytest.mark.parametrize("epochs", [7, 5])
def test_a_finished_training_of_pyslowfast_is_where_a_new_one_starts(
    opts, their_run, caplog, epochs
):
    """Its 7 epochs are MAX_EPOCH or more: nothing could continue, so it is fine-tuned, whole."""
    path, content = their_run
    cfg = opts("SOLVER.MAX_EPOCH", epochs, "TRAIN.CHECKPOINT_FILE_PATH", path)
    trainer = start(cfg)
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)
    assert_same(trainer.model, content["model_state"])
    assert not trainer.optimizer.state
    assert f"has 7 epochs, and SOLVER.MAX_EPOCH is {epochs}" in caplog.text


def test_a_file_of_pyslowfast_is_taken_whole_or_not_at_all(opts, their_run):
    """Where its scaler is damaged, a new training begins without its momentum."""
    path, content = their_run
    torch.save({**content, "scaler_state": {"scale": "much", "_growth_tracker": 0}}, path)
    trainer = start(opts("SOLVER.MAX_EPOCH", 8, "TRAIN.CHECKPOINT_FILE_PATH", path))
    assert (trainer.progress.epoch, trainer.progress.step) == (0, 0)
    assert_same(trainer.model, content["model_state"])
    assert not trainer.optimizer.state


def test_a_file_of_weights_can_not_be_resumed(opts):
    cfg = opts()
    path = Path(cfg.OUTPUT_DIR) / "checkpoints" / "checkpoint_epoch_00003.pyth"
    save_checkpoint(path, {"model_state": random_state(cfg), "epoch": 2, "cfg": ""})
    with pytest.raises(
        CheckpointError, match=r"00003\.pyth holds weights, but no run.*CHECKPOINT_FILE"
    ):
        start(cfg)


@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x02}"])
def test_a_bad_file_is_named(opts, tmp_path, data):
    path = tmp_path / "bad.pyth"
    path.write_bytes(data)
    for key in ("TRAIN", "TEST"):
        cfg = opts(f"{key}.CHECKPOINT_FILE_PATH", path)
        with pytest.raises(CheckpointError, match=r"bad\.pyth"):
            start(cfg) if key == "TRAIN" else run_test(cfg)
