"""The whole way of a network of the user's own: train, resume, test, predict, features, load."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import octvideo
from octvideo.api.loading import load_trained
from octvideo.config import load_cfg
from octvideo.data.synthetic.images import make_synthetic_images
from octvideo.data.synthetic.videos import make_synthetic
from octvideo.engine import load_checkpoint, run_test, run_train
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.start import check_run
from octvideo.layers import OctConv2d
from support import ROOT, own_networks

COMMON = {
    "MODEL.ARCH": "external",
    "TRAIN.BATCH_SIZE": 4,
    "TRAIN.EVAL_PERIOD": 1,
    "TRAIN.CHECKPOINT_PERIOD": 1,
    "TEST.BATCH_SIZE": 4,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA_LOADER.NUM_WORKERS": 0,
    "SOLVER.WARMUP_EPOCHS": 0,
    "SOLVER.MAX_EPOCH": 1,
    "EMA.ENABLE": True,
    "BN.USE_PRECISE_STATS": True,
    "BN.NUM_BATCHES_PRECISE": 2,
}
VIDEO = {
    "MODEL.MODEL_NAME": "support.own_networks:video",
    "MODEL.OPTIONS": ["width=6"],
    "DATA.NUM_FRAMES": 4,
    "DATA.TRAIN_JITTER_SCALES": [36, 40],
    "DATA.TEST_CROP_SIZE": 36,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
}
IMAGE = {
    "MODEL.MODEL_NAME": "support.own_networks:image",
    "DATA.NUM_FRAMES": 1,
    "DATA.TEST_CROP_SIZE": 36,
    "DATA.MEAN": [0.4, 0.5, 0.6],
    "OCTAVE.ENABLE": True,
    "OCTAVE.ALPHA": 0.25,
}


def options(*changes: dict[str, object]) -> list[object]:
    merged = {key: value for change in (COMMON, *changes) for key, value in change.items()}
    return [word for pair in merged.items() for word in pair]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run on videos: folder, opts, cfg, checkpoint, and the files of its test."""
    folder = tmp_path_factory.mktemp("own_videos")
    make_synthetic(folder / "data", num_train=4, num_val=1, num_test=1, seconds=(1, 2))
    paths = {"DATA.PATH_TO_DATA_DIR": str(folder / "data"), "OUTPUT_DIR": str(folder / "run")}
    opts = options(VIDEO, paths)
    cfg = load_cfg(ROOT / "configs/Synthetic/base.yaml", opts)
    check_run(cfg)
    rows = (folder / "data/test.csv").read_text().splitlines()
    files = [str(folder / "data" / row.rpartition(" ")[0]) for row in rows]
    return SimpleNamespace(
        folder=folder, opts=opts, cfg=cfg, checkpoint=run_train(cfg), files=files
    )


def test_a_checkpoint_is_the_state_of_the_network(videos: SimpleNamespace) -> None:
    content = load_checkpoint(videos.checkpoint)
    vanilla = own_networks.video(6)
    vanilla[15] = torch.nn.Linear(6, videos.cfg.MODEL.NUM_CLASSES)
    vanilla.load_state_dict(content["model_state"])
    record = content["spec"]
    assert (record["network"], record["name"]) == ("ExternalSpec", "support.own_networks:video")
    assert record["options"] == ["width=6"]
    # The other way: a file of the network alone, behind a wrapper's prefix.
    wrapped = {f"module.{name}": value for name, value in vanilla.state_dict().items()}
    torch.save(wrapped, videos.folder / "vanilla.pth")
    model = octvideo.create_model(
        "support.own_networks:video",
        pretrained=videos.folder / "vanilla.pth",
        options={"width": 6},
        num_frames=4,
        crop_size=32,
    )
    x = torch.randn(2, 3, 4, 32, 32)
    expected = vanilla.eval()(x)
    torch.testing.assert_close(model.eval()(x), expected.softmax(1))
    features = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(features, vanilla[:15](x))


def test_a_run_resumes_and_is_tested(videos: SimpleNamespace) -> None:
    longer = load_cfg(ROOT / "configs/Synthetic/base.yaml", [*videos.opts, "SOLVER.MAX_EPOCH", 2])
    newest = run_train(longer)
    assert newest.name == "checkpoint_epoch_00002.pyth"
    assert load_checkpoint(newest)["epoch"] == 1
    result = run_test(longer, newest)
    assert (result["num_videos"], result["num_views"]) == (len(videos.files), 6)
    other = load_cfg(
        ROOT / "configs/Synthetic/base.yaml", [*videos.opts, "MODEL.OPTIONS", ["width=8"]]
    )
    with pytest.raises(CheckpointError, match=r"MODEL\.OPTIONS was \['width=6'\]"):
        run_train(other)


def test_a_run_is_loaded_where_its_network_is_named(videos: SimpleNamespace) -> None:
    run = videos.folder / "run"
    with pytest.raises(octvideo.UserError, match=r"network='support\.own_networks:video'"):
        octvideo.load(run)
    with pytest.raises(octvideo.UserError, match="network="):
        octvideo.load(run, network="support.own_networks:image")
    named = ["MODEL.MODEL_NAME", "support.own_networks:video"]
    load_trained(None, videos.checkpoint, named)  # as of --opts
    model = octvideo.load(run, network="support.own_networks:video")
    assert model.class_names is not None
    assert model.protocol.num_frames == 4
    prediction = octvideo.predict(videos.files[0], model)
    assert prediction
    features = np.asarray(octvideo.extract_features(videos.files[0], model))
    assert features.shape == (6,)


def test_an_octave_run_on_images(tmp_path: Path) -> None:
    make_synthetic_images(tmp_path / "data", num_train=8, num_val=4)
    paths = {"DATA.PATH_TO_DATA_DIR": str(tmp_path / "data"), "OUTPUT_DIR": str(tmp_path / "run")}
    cfg_path = ROOT / "configs/Synthetic/base_images.yaml"
    cfg = load_cfg(cfg_path, options(IMAGE, paths))
    path = run_train(cfg)
    vanilla = load_cfg(cfg_path, options({**IMAGE, "OCTAVE.ENABLE": False}, paths))
    with pytest.raises(CheckpointError, match=r"OCTAVE\.ENABLE was True, is False"):
        run_train(vanilla)
    result = run_test(cfg, path)
    assert (result["num_videos"], result["num_views"]) == (4, 1)
    model = octvideo.load(path, network="support.own_networks:image")
    assert model.spec.is_image
    assert model.spec.octave.alpha == 0.25
    assert any(isinstance(module, OctConv2d) for module in model.modules())
    assert model.protocol.mean == (0.4, 0.5, 0.6)
    picture = next((tmp_path / "data/val").rglob("*.jpg"))
    assert octvideo.predict(picture, model)
