"""predict and extract_features: the numbers of a test, on every kind of file."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import octvideo
from octvideo.api.loading import load_trained
from octvideo.api.predict import view_scores
from octvideo.api.protocols import protocol_of
from octvideo.config import dump, load_cfg
from octvideo.data import VideoError
from octvideo.data.labels import class_names, class_names_beside
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.engine import run_test, run_train
from octvideo.layers import conv3d_as_2d
from octvideo.utils.errors import NonFiniteError, UserError
from support import ROOT, SHARED, load_tool
from support.commands import run_tool

QUICK = Protocol(num_frames=4, sampling_rate=8, crop_size=64, num_clips=3)


@pytest.fixture(scope="module")
def tiny():
    """Twelve classes, octave, made for crops of 64."""
    torch.manual_seed(1)
    options = {"depth": 14, "width_per_group": 8, "num_frames": 4, "crop_size": 64}
    return octvideo.create_model("i3d_r50", 12, 0.25, **options)


def test_all_views_are_those_of_a_test(small):
    cfg = load_cfg(small.cfg, [*small.opts, "TEST.SAVE_RESULTS_PATH", "scores.npz"])
    run_test(cfg)
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    with np.load(small.folder / "run" / "scores.npz") as saved:
        table, paths = saved["scores"], saved["paths"].tolist()
    assert table.shape == (3, 12, 8)
    for video, scores in zip(paths, table, strict=True):
        settings = build_protocol(cfg)
        np.testing.assert_allclose(
            view_scores(video, model, settings, batch_size=30), scores, rtol=1e-6, atol=1e-9
        )
        best = octvideo.predict(video, model, topk=8)
        mean = scores.mean(axis=0)
        assert [label for label, _ in best] == [f"class {i}" for i in np.argsort(-mean)]
        np.testing.assert_allclose([s for _, s in best], np.sort(mean)[::-1], rtol=1e-3)
    assert len({octvideo.predict(video, model)[0][1] for video in paths}) == 3


def test_fast_is_the_centre_view_written_out(small):
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    [video, *_] = small.videos
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        fps = float(container.streams.video[0].average_rate)
    span = 8 * 4 / 30 * fps
    start = max(len(frames) - span, 0) / 2
    places = torch.linspace(start, start + span - 1, 8).clamp(0, len(frames) - 1).long()
    pixels = torch.from_numpy(np.stack([frames[i] for i in places])).permute(0, 3, 1, 2).float()
    h, w = pixels.shape[2:]
    size = (72, math.floor(w / h * 72)) if h <= w else (math.floor(h / w * 72), 72)
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    top, left = math.ceil((size[0] - 72) / 2), math.ceil((size[1] - 72) / 2)
    pixels = pixels[:, :, top : top + 72, left : left + 72]
    with torch.no_grad():
        wanted = model.eval()(((pixels / 255 - 0.45) / 0.225).transpose(0, 1)[None])[0]
    got = dict(octvideo.predict(video, model, fast=True, topk=8))
    for label, score in enumerate(wanted.tolist()):
        assert got[f"class {label}"] == pytest.approx(score, rel=1e-4)


def test_what_decodes_of_a_damaged_video(small, tmp_path, caplog, capsys):
    """With allow_partial it is an answer, and a warning of what is left out."""
    with av.open(small.videos[0]) as container:
        packet = [p for p in container.demux(video=0) if p.size and p.is_keyframe][-1]
        damage = slice(packet.pos + 100, packet.pos + packet.size)
    with open(small.videos[0], "rb") as file:
        data = bytearray(file.read())
    data[damage] = bytes(damage.stop - damage.start)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)

    with pytest.raises(VideoError, match=r"damaged\.mp4"):
        octvideo.predict(path, small.model)
    assert not caplog.records
    best = octvideo.predict(path, small.model, topk=8, allow_partial=True)
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-4)
    features = octvideo.extract_features(path, small.model, allow_partial=True)
    assert np.isfinite(features).all()
    assert len(caplog.records) == 2
    assert "damaged.mp4" in caplog.text
    assert "without" in caplog.text

    predict, options = load_tool("predict"), ["--cfg", small.cfg, "--checkpoint", small.checkpoint]
    assert predict.main([*map(str, options), str(path)]) == 1
    assert predict.main([*map(str, options), "--allow-partial", str(path)]) == 0
    assert str(path) in capsys.readouterr().out


@pytest.fixture
def lost(small, tmp_path):
    """A checkpoint whose weights are nan, as a training run that diverged would have left it."""
    state = {k: v.clone() for k, v in small.model.state_dict().items()}
    state["head.projection.weight"][3] = float("nan")
    state["s1.pathway0_stem.conv.weight"][0] = float("nan")
    torch.save({"epoch": 0, "model_state": state}, tmp_path / "lost.pyth")
    return tmp_path / "lost.pyth"


def test_nan_is_no_result(small, lost, tmp_path, capsys, monkeypatch):
    model = load_trained(small.cfg, lost, small.opts)
    for function in (octvideo.predict, octvideo.extract_features):
        with pytest.raises(NonFiniteError):
            function(small.videos[0], model, fast=True)
    # Without the fused ReLU, which hides them, it is the numbers that are looked at.
    monkeypatch.setattr(conv3d_as_2d, "enabled", False)
    for function in (octvideo.predict, octvideo.extract_features):
        with pytest.raises(NonFiniteError, match=re.escape(small.videos[0])):
            function(small.videos[0], model, fast=True)
    options = ["--cfg", str(small.cfg), "--checkpoint", str(lost), "--fast"]
    assert load_tool("predict").main([*options, *small.videos]) == 1
    shown = capsys.readouterr()
    assert "%" not in shown.out
    assert shown.err.count("nan or inf") == len(small.videos)
    out = ["--out", str(tmp_path / "out"), "--workers", "0"]
    assert load_tool("extract_features").main([*options, *out, *small.videos]) == 1
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_the_model_is_left_as_it_was(small):
    model = load_trained(small.cfg, small.checkpoint, small.opts).train()
    model.s1.eval()
    octvideo.predict(small.videos[0], model, fast=True)
    assert model.training
    assert model.head.training
    assert not model.s1.training
    assert all(p.grad is None for p in model.parameters())


def test_maximum_of_the_views(small):
    model = load_trained(small.cfg, small.checkpoint, [*small.opts, "DATA.ENSEMBLE_METHOD", "max"])
    scores = view_scores(small.videos[0], model, protocol_of(model))
    assert octvideo.predict(small.videos[0], model, topk=1)[0][1] == pytest.approx(scores.max())


def test_class_names_are_never_guessed(small, tiny):
    names = [f"name {i}" for i in range(8)]
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    [video, *_] = small.videos
    unnamed = octvideo.predict(video, model, topk=8, fast=True)
    given = octvideo.predict(video, model, topk=8, fast=True, class_names=names)
    assert [label.replace("class", "name") for label, _ in unnamed] == [n for n, _ in given]
    file = small.data / "class_names.json"
    actions = sorted(json.loads(file.read_text()), key=json.loads(file.read_text()).get)
    from_file = octvideo.predict(video, model, topk=8, fast=True, class_names=file)
    assert [actions.index(a) for a, _ in from_file] == [names.index(n) for n, _ in given]
    with pytest.raises(UserError, match="400 class names for a model of 8"):
        octvideo.predict(video, model, class_names="kinetics400")


def test_a_training_writes_the_class_names_of_its_data(small, tmp_path):
    names = class_names_beside(small.data, 8)
    assert names == class_names(small.data / "class_names.json")
    assert class_names_beside(small.data, 7) is None
    assert class_names_beside(tmp_path, 8) is None
    opts = [
        *small.opts,
        "OUTPUT_DIR",
        str(tmp_path),
        "TRAIN.BATCH_SIZE",
        "1",
        "SOLVER.MAX_EPOCH",
        "1",
    ]
    run_train(load_cfg(small.cfg, [*opts, "TENSORBOARD.ENABLE", "False"]))
    model = load_trained(small.cfg, tmp_path / "checkpoints/checkpoint_epoch_00001.pyth", opts)
    assert octvideo.predict(small.videos[0], model, fast=True)[0][0] in names


def test_class_names_come_with_a_checkpoint(small, tmp_path):
    names = [f"name {i}" for i in range(8)]
    content = torch.load(small.checkpoint) | {"class_names": names}
    torch.save(content, tmp_path / "named.pyth")
    model = load_trained(small.cfg, tmp_path / "named.pyth", small.opts)
    assert octvideo.predict(small.videos[0], model, fast=True)[0][0].startswith("name ")


# Files of all kinds


@pytest.mark.parametrize(
    "name",
    sorted(
        str(path.relative_to(SHARED / "videos"))
        for folder in ("good", "odd")
        for path in SHARED.glob(f"videos/{folder}/*")
    ),
)
def test_every_good_and_odd_file(shared, tiny, name):
    path = shared / "videos" / name
    if name == "odd/huge_real.mp4":  # 133 megapixels a frame: refused before they are converted
        with pytest.raises(VideoError, match=r"huge_real\.mp4: frames of 15360x8640"):
            octvideo.predict(path, tiny, settings=QUICK)
        return
    best = octvideo.predict(path, tiny, settings=QUICK, topk=12)
    assert len(best) == 12
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-4)
    assert all(math.isfinite(score) and score >= 0 for _, score in best)


@pytest.mark.parametrize(
    "name", sorted(path.name for path in SHARED.glob("videos/bad/*")), ids=lambda name: name
)
def test_every_bad_file(shared, tiny, name):
    path = shared / "videos/bad" / name
    with pytest.raises(VideoError, match=f"{name}: .+") as error:
        octvideo.predict(path, tiny, settings=QUICK)
    assert error.value.path == str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd/rot90.mp4", "odd/vfr.mp4", "good/imageio_cockatoo.mp4"])
def test_thirty_views_at_full_size(shared, name):
    model = octvideo.create_model("i3d_r50", octave_alpha=0.1)
    best = octvideo.predict(shared / "videos" / name, model, class_names="kinetics400")
    assert len(best) == 5
    assert all(math.isfinite(score) for _, score in best)


def test_no_such_file(tiny, tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        octvideo.predict(tmp_path / "none.mp4", tiny)


# Features


def test_features_are_what_the_last_layer_sees(small):
    # at the training crop the map has one position: scores are softmax(W f + b)
    opts = [*small.opts, "DATA.TEST_CROP_SIZE", "64"]
    model = load_trained(small.cfg, small.checkpoint, opts)
    settings = protocol_of(model)
    [video, *_] = small.videos
    features = octvideo.extract_features(video, model, per_view=True)
    assert features.shape == (12, 256)
    assert features.dtype == np.float32
    layer = model.head.projection
    logits = torch.from_numpy(features) @ layer.weight.detach().T + layer.bias.detach()
    scores = view_scores(video, model, settings)
    np.testing.assert_allclose(logits.softmax(1).numpy(), scores, rtol=1e-4, atol=1e-6)
    mean = octvideo.extract_features(video, model)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-6)
    assert octvideo.extract_features(video, model, fast=True).shape == (256,)


def test_two_pathways(small):
    options = {"depth": 14, "width_per_group": 8, "num_frames": 16, "crop_size": 64}
    model = octvideo.create_model("slowfast_4x16_r50", 5, **options)
    settings = Protocol(16, 2, crop_size=64, num_clips=2, num_crops=1)
    assert octvideo.extract_features(small.videos[0], model, settings=settings).shape == (288,)
    scores = octvideo.predict(small.videos[0], model, settings=settings)
    assert sum(s for _, s in scores) == pytest.approx(1, abs=1e-5)


# What the model knows of itself


def test_settings_of_a_model(tiny, small):
    assert protocol_of(octvideo.create_model("i3d_r18")) == Protocol(8, 8, 256)
    assert protocol_of(tiny) == Protocol(4, 8, crop_size=64)
    assert protocol_of(tiny, 3).sampling_rate == 3
    with pytest.raises(UserError, match="sampling_rate must be at least 1, got 0"):
        protocol_of(tiny, 0)
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    assert protocol_of(model) == Protocol(8, 4, 72, num_clips=4)
    with pytest.raises(UserError, match="Linear is not a model of octvideo"):
        protocol_of(torch.nn.Linear(1, 1))


def test_a_model_that_has_no_features(small):
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    assert view_scores(small.videos[0], model, QUICK, batch_size=2).shape == (9, 3)
    with pytest.raises(UserError, match="forward_features"):
        octvideo.extract_features(small.videos[0], model, settings=QUICK)


# The command line


def start(name: str, *words: object, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / name, *map(str, words)]
    env = {**os.environ, **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.slow
def test_names_of_files_cannot_steer_a_terminal(small, tmp_path):
    strange = b"caf\xe9 \xe2\x80\xae\x1b[31m\xc2\x9b\r\nclass 1\xe3\x81\x82".decode(
        errors="surrogateescape"
    )
    good, bad = tmp_path / f"{strange}.mp4", tmp_path / f"{strange}bad.mp4"
    good.symlink_to(small.videos[0])
    bad.write_text("no video")
    options = ("--cfg", small.cfg, "--checkpoint", small.checkpoint, "--fast")
    videos = (good, bad, "--opts", *small.opts)
    done = start("predict.py", *options, *videos, PYTHONIOENCODING="ascii:strict", LC_ALL="C")
    assert done.returncode == 1, done.stderr
    shown = r"caf\xe9 \u202e\x1b[31m\x9b\r\nclass 1"
    first, *classes = done.stdout.splitlines()
    assert first == f"{tmp_path}/{shown}\\u3042.mp4"
    assert len(classes) == 5
    assert f"error: {tmp_path}/{shown}" in done.stderr
    out = ("--out", tmp_path / "f.npz")
    done = start("extract_features.py", *options, *out, *videos, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 1, done.stderr
    assert "1 videos done, 1 without features" in done.stdout
    assert f"error: {tmp_path}/{shown}" in done.stderr
    for text in (done.stdout, done.stderr):
        assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_tool(small, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    done = run_tool(
        *("predict.py", "--cfg", small.cfg, "--checkpoint", small.checkpoint, "--json"),
        *("--class-names", small.data / "class_names.json", "--topk", 2, small.videos[0]),
        *(tmp_path / "broken.mp4", small.videos[1], "--opts", *small.opts),
    )
    assert done.returncode == 1, done.stderr
    assert "broken.mp4" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["video"] for row in rows] == small.videos[:2]
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    for row in rows:
        wanted = octvideo.predict(
            row["video"], model, topk=2, class_names=small.data / "class_names.json"
        )
        assert [label for label, _ in row["scores"]] == [label for label, _ in wanted]
        np.testing.assert_allclose([s for _, s in row["scores"]], [s for _, s in wanted], rtol=1e-4)


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_traceback(small):
    command = [sys.executable, ROOT / "tools/predict.py", "--cfg", small.cfg, "--checkpoint"]
    command += [small.checkpoint, *small.videos * 100, "--opts", *small.opts]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith(small.videos[0])  # it is at work
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


def test_a_checkpoint_is_enough_where_it_has_its_configuration(small, tmp_path):
    with pytest.raises(UserError, match=r"model.pyth holds weights, but no .* give it, .* --cfg"):
        load_trained(None, small.checkpoint)
    cfg, file = load_cfg(small.cfg, small.opts), tmp_path / "own.pyth"
    torch.save({"epoch": 0, "model_state": small.model.state_dict(), "cfg": dump(cfg)}, file)
    model = load_trained(None, file, ["TEST.NUM_ENSEMBLE_VIEWS", "2"])
    assert model.spec.octave.alpha == cfg.OCTAVE.ALPHA > 0
    assert model.protocol == replace(build_protocol(cfg), num_clips=2)
    for opts, message in (
        (["TEST.NUM", "2"], "unknown key"),
        (["OCTAVE.ALPHA", "2"], r"own.pyth: O"),
    ):
        with pytest.raises(UserError, match=message):
            load_trained(None, file, opts)
    done = run_tool("predict.py", "--checkpoint", file, "--fast", small.videos[0])
    assert done.returncode == 0, done.stderr


def test_an_impossible_batch(small):
    model = load_trained(small.cfg, small.checkpoint, small.opts)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        octvideo.predict(small.videos[0], model, fast=True, batch_size=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "i3d"], "the zoo has no 'i3d'"),
        (["--model", "i3d", "--batch-size", "0"], "must be at least 1, got 0"),
        (["--cfg", "x.yaml"], "or --checkpoint FILE, with --cfg FILE"),
        (["--cfg", ROOT / "configs/Synthetic/I3D.yaml", "--checkpoint", "no.pyth"], "no.pyth"),
    ],
)
def test_mistakes(words, message):
    done = run_tool("predict.py", *words, "clip.mp4")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
