"""Exported files on real videos: the classes and scores of the checkpoint."""

import numpy as np
import pytest

import octvideo
from support import SHARED

VIDEOS = SHARED / "videos" / "good"
FILES = ("mmaction2_demo.mp4", "decord_flipping_a_pancake.mkv", "torchcodec_h265_video.mp4")


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the clips of ../shared/videos")
@pytest.mark.parametrize("form", ["onnx", "xml", "pt2"])
def test_real_files(form, tmp_path):
    for package in {"onnx": ("onnxruntime",), "xml": ("openvino",)}.get(form, ()):
        pytest.importorskip("onnxscript", reason="needs octvideo[onnx]")
        pytest.importorskip(package, reason="needs octvideo[onnx,openvino]")
    model = octvideo.load("oct_i3d_synthetic")
    path = tmp_path / f"model.{form}"
    octvideo.export(model, path)
    for file in FILES:
        want = octvideo.predict(VIDEOS / file, model, topk=8, fast=True)
        got = octvideo.predict(VIDEOS / file, str(path), topk=8, fast=True)
        assert [name for name, _ in got] == [name for name, _ in want]
        np.testing.assert_allclose([s for _, s in got], [s for _, s in want], rtol=1e-4, atol=1e-6)
