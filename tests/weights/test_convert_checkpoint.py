"""tools/convert_checkpoint.py, as a command and as a function."""

import hashlib

import pytest
import torch
import yaml
from resnet2d import random_resnet2d
from zoo_files import TINY, tiny, write_caffe2, write_pytorchvideo

import octvideo
from octvideo.config import load_cfg
from octvideo.models import spec_from_dict
from octvideo.models.from_cfg import spec_of
from octvideo.weights import load_into, read_weights
from support import ROOT, load_tool
from support.commands import run_tool

TOOL = ROOT / "tools" / "convert_checkpoint.py"
TINY_OPTIONS = {key: value for key, value in TINY.items() if key != "num_classes"}
MODEL = [
    *("--cfg", str(ROOT / "configs/Kinetics/OCT_I3D_8x8.yaml"), "--opts"),
    *("RESNET.WIDTH_PER_GROUP", "4", "MODEL.NUM_CLASSES", "5"),
]


@pytest.fixture(scope="module")
def main():
    return load_tool("convert_checkpoint").main


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_command(shared, tmp_path):
    source = tiny(seed=1)
    path, result = write_caffe2(tmp_path / "I3D.pkl", source), tmp_path / "new" / "I3D.pyth"
    run = run_tool("convert_checkpoint.py", path, result, "--sha256", sha256(path), *MODEL)
    assert run.returncode == 0, run.stderr
    assert sha256(path) in run.stdout
    assert sha256(result) in run.stdout
    assert "(caffe2): 320 entries loaded, none left out" in run.stdout
    content = torch.load(result, weights_only=True)
    assert content["source"] == {"name": "I3D.pkl", "sha256": sha256(path), "kind": "caffe2"}
    assert content["epoch"] == -1
    assert yaml.safe_load(content["cfg"])["MODEL"]["ARCH"] == "i3d"
    assert spec_from_dict(content["spec"]) == spec_of(load_cfg(MODEL[1], MODEL[3:]))
    assert content["model_state"].keys() == source.state_dict().keys()
    for key, value in source.state_dict().items():
        assert torch.equal(content["model_state"][key], value)
    assert [p.name for p in result.parent.iterdir()] == [result.name]


def test_the_result_is_the_same_each_time_and_can_be_converted(shared, main, tmp_path):
    path = write_pytorchvideo(tmp_path / "a.pyth", tiny(seed=1), "I3D_8x8_R50")
    results = [tmp_path / name for name in ("x.pyth", "y.pyth", "z.pyth")]
    assert main([str(path), str(results[0]), "--from", "pytorchvideo"]) == 0
    assert main([str(path), str(results[1])]) == 0
    assert sha256(results[0]) == sha256(results[1])
    assert main([str(results[0]), str(results[2])]) == 0
    assert read_weights(results[2]).kind == "octvideo"
    load_into(tiny(seed=3), read_weights(results[2]))


@pytest.mark.slow
def test_the_average_of_a_run_is_what_is_published(main, tmp_path):
    path, result = tmp_path / "run.pyth", tmp_path / "out.pyth"
    last, average = tiny(seed=1).state_dict(), tiny(seed=2).state_dict()
    torch.save({"model_state": last, "ema_state": average, "rng_state": torch.zeros(1)}, path)
    assert main([str(path), str(result)]) == 0
    model = octvideo.create_model("i3d_r50", pretrained=path, **TINY_OPTIONS)
    for key, value in average.items():
        assert torch.equal(torch.load(result)["model_state"][key], value)
        assert torch.equal(model.state_dict()[key], value)


def test_class_names_are_kept(main, tmp_path):
    path, result = tmp_path / "run.pyth", tmp_path / "out.pyth"
    torch.save({"model_state": tiny().state_dict(), "class_names": list("abcde")}, path)
    assert main([str(path), str(result)]) == 0
    assert read_weights(result).class_names == list("abcde")


def test_inflation(main, tmp_path, capsys):
    network, path, result = random_resnet2d(), tmp_path / "r50.pth", tmp_path / "i3d.pyth"
    torch.save(network.state_dict(), path)
    assert main([str(path), str(result), "--inflate", *MODEL[:-1], "7"]) == 0
    captured = capsys.readouterr()
    assert "head.projection.bias: (5,) in the file, (7,) in the model" in captured.out
    state = torch.load(result)["model_state"]
    kernel = state["s1.pathway0_stem.conv.weight"]
    assert kernel.shape == (4, 3, 5, 7, 7)
    torch.testing.assert_close(kernel.sum(2), network.conv1.weight.detach())
    assert torch.equal(state["head.projection.weight"], network.fc.weight)  # of the file
    model = octvideo.load(result)
    assert (model.spec.arch, model.spec.num_classes) == ("i3d", 5)
    assert torch.equal(model.s1.pathway0_stem.conv.weight, kernel)
    with pytest.raises(SystemExit):
        main([str(path), str(result), "--inflate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sha256", "0" * 64], "is not the file that was meant"),
        (["--sha256", "abc"], "at least 8 hexadecimal digits"),
        (["--from", "caffe2"], "is a file of kind pytorch, not caffe2"),
        ([*MODEL, "RESNET.DEPTH", "101"], "does not fit the model"),
        ([*MODEL, "RESNET.DEPT", "101"], "RESNET.DEPTH"),
    ],
)
def test_errors_are_a_message_and_no_file(main, tmp_path, capsys, arguments, message):
    path, result = tmp_path / "a.pyth", tmp_path / "b.pyth"
    torch.save(tiny().state_dict(), path)
    assert main([str(path), str(result), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not result.exists()


def test_the_source_is_never_overwritten(main, tmp_path, capsys):
    path = tmp_path / "a.pyth"
    torch.save(tiny().state_dict(), path)
    before = sha256(path)
    assert main([str(path), str(path)]) == 2
    assert "is the source itself" in capsys.readouterr().err
    assert sha256(path) == before
    assert main([str(tmp_path / "absent"), str(tmp_path / "b.pyth")]) == 2
