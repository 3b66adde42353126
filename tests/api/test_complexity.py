"""Counts of multiply-adds, parameters and activations, and the tool that prints them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import Tensor, nn

from octvideo import create_model
from octvideo.api.complexity import complexity_of, format_complexity
from octvideo.config import load_cfg
from octvideo.layers import OctConv3d
from octvideo.utils.complexity import count
from support import ROOT
from support.commands import run_tool

CONFIGS = ROOT / "configs" / "Kinetics"
SECTIONS = ["s1", "s2", "s3", "s4", "s5", "head"]


def test_a_network_counted_by_hand() -> None:
    """3 -> 8 channels 3x3 on 10x12; 8 -> 6 grouped, stride 2; linear on every pixel."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.two = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2, bias=False)
            self.scale = nn.Parameter(torch.ones(1))
            self.three = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.two(self.one(x)).permute(0, 2, 3, 1)
            attention = torch.bmm(x.flatten(1, 2), x.flatten(1, 2).transpose(1, 2))  # not counted
            return self.three(x) + self.scale * attention.mean()

    model = Net()
    cost = count(model, (2, 3, 10, 12))
    one, two, three = 2 * 120 * 8 * 27, 2 * 30 * 6 * 36, 2 * 30 * 6 * 5
    assert [part.macs for part in cost.sections.values()] == [one, two, three]
    assert cost.macs == one + two + three
    params = [8 * 27 + 8 + 16, 6 * 36, 35]
    assert [part.params for part in cost.sections.values()] == params
    assert cost.params == sum(params) + 1  # and the scale, which belongs to no section
    assert [part.activations for part in cost.sections.values()] == [1920, 360, 300]
    assert cost.activations == 1920 + 360 + 300


@pytest.mark.parametrize("name", ["c2d_r18", pytest.param("i3d_r50", marks=pytest.mark.slow)])
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_equals_fvcore_which_runs_the_model(name: str, alpha: float) -> None:
    model = create_model(
        name, num_classes=5, octave_alpha=alpha, width_per_group=8, num_frames=4, crop_size=64
    ).eval()
    x = torch.randn(1, 3, 4, 64, 64)
    counted = {"conv", "linear"}
    flops, activations = FlopCountAnalysis(model, x), ActivationCountAnalysis(model, x)
    cost = count(model, x.shape)
    analyses = [(flops, "macs"), (activations, "activations")]
    for analysis, field in analyses[: 1 if alpha else 2]:  # fvcore sees four convolutions, not one
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        for section, operators in analysis.by_module_and_operator().items():
            want = sum(n for operator, n in operators.items() if operator in counted)
            if section == "":
                assert getattr(cost, field) == want
            elif section in cost.sections:
                assert getattr(cost.sections[section], field) == want, section


def test_activations_of_an_octave_layer_are_those_of_both_frequencies() -> None:
    layer = nn.Sequential(OctConv3d(8, 12, (1, 3, 3), padding=(0, 1, 1), alpha_out=0.25))
    assert count(layer, (1, 8, 2, 9, 6)).activations == 2 * (9 * 9 * 6 + 3 * 5 * 3)


def test_the_model_is_left_as_it_is() -> None:
    model = create_model("i3d_r18", width_per_group=8, octave_alpha=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost = count(model, (1, 3, 4, 64, 64))
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert count(model.eval(), (1, 3, 4, 64, 64)) == cost
    assert count(model, (2, 3, 4, 64, 64)).macs == 2 * cost.macs


def test_an_input_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"Linear cannot take an input of shape \(1, 5\)"):
        count(torch.nn.Linear(4, 2), (1, 5))


@pytest.mark.parametrize(
    ("file", "alpha", "stages", "macs", "params"),
    [
        ("I3D_8x8_R50", 0.0, [], 28_407_660_544, 28_043_472),
        ("OCT_I3D_8x8", 0.1, [2, 3, 4, 5], 25_405_708_612, 28_043_472),
        ("OCT_C2D_8x8", 0.1, [2, 3, 4, 5], 17_183_188_068, 24_327_632),
    ],
)
def test_report(file: str, alpha: float, stages: list[int], macs: int, params: int) -> None:
    report = complexity_of(load_cfg(CONFIGS / f"{file}.yaml"), file)
    sections = report.pop("sections")
    assert report.pop("activations") == sum(part["activations"] for part in sections.values())
    assert report == {
        "name": file,
        "arch": "c2d" if "C2D" in file else "i3d",
        "alpha": alpha,
        "stages": stages,
        "input": [1, 3, 8, 224, 224],
        "macs": macs,
        "params": params,
    }
    assert list(sections) == SECTIONS
    for field in ("macs", "params"):
        assert sum(part[field] for part in sections.values()) == report[field]


def test_report_of_slowfast() -> None:
    report = complexity_of(load_cfg(CONFIGS / "OCT_SLOWFAST_4x16.yaml"), "Oct-SlowFast")
    assert (report["arch"], report["input"]) == ("slowfast", [1, 3, 32, 224, 224])
    assert (report["macs"], report["params"]) == (24_967_760_452, 34_480_216)
    fusions = [f"s{k}_fuse" for k in (1, 2, 3, 4)]
    assert list(report["sections"]) == [
        *(name for pair in zip(SECTIONS, fusions, strict=False) for name in pair), "s5", "head",
    ]  # fmt: skip
    # conv_f2s: kernel 5, from 8 x c channels to twice as many, on 4 frames of each stage's map
    maps = {1: (8, 56), 2: (32, 56), 3: (64, 28), 4: (128, 14)}
    for stage, (channels, side) in maps.items():
        macs = 4 * side * side * 5 * channels * 2 * channels
        assert report["sections"][f"s{stage}_fuse"]["macs"] == macs
    at_256 = load_cfg(CONFIGS / "SLOWFAST_4x16_R50.yaml", ["DATA.TRAIN_CROP_SIZE", 256])
    assert complexity_of(at_256, "")["macs"] == 36_099_198_976


def test_table() -> None:
    report = complexity_of(load_cfg(CONFIGS / "OCT_I3D_8x8.yaml"), "Oct-I3D")
    lines = format_complexity(report).splitlines()
    assert lines[0] == "Oct-I3D (i3d, alpha 0.1 in res[2, 3, 4, 5]), input 1x3x8x224x224"
    assert [line.split()[0] for line in lines[2:]] == [*SECTIONS, "total"]
    assert lines[-1].split()[1:4] == ["25.406", "25,405,708,612", "28.043"]


# The tool, from another folder, as its users start it


def run_benchmark(cwd: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    return run_tool("benchmark.py", *words, cwd=cwd)


def test_tool_prints_json(tmp_path: Path) -> None:
    done = run_benchmark(
        tmp_path, "complexity", "--cfg", CONFIGS / "OCT_I3D_8x8.yaml", "--json",
        "--opts", "OCTAVE.STAGES", "[2,3,4]", "DATA.TRAIN_CROP_SIZE", 224,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["name"], report["macs"]) == ("OCT_I3D_8x8", 25_780_849_924)
    assert report["sections"].keys() == set(SECTIONS)
    assert list(tmp_path.iterdir()) == []


def test_tool_prints_a_table(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, "complexity", "--cfg", CONFIGS / "C2D_8x8_R50.yaml")
    assert done.returncode == 0, done.stderr
    assert "C2D_8x8_R50 (c2d), input 1x3x8x224x224" in done.stdout
    assert "19,493,191,680" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg", "missing.yaml"], "missing.yaml"),
        (["--cfg", CONFIGS / "I3D_8x8_R50.yaml", "--opts", "RESNET.DEPHT", 50], "RESNET.DEPTH"),
        (["--cfg", CONFIGS / "I3D_8x8_R50.yaml", "--opts", "RESNET.DEPTH", 51], "no depth 51"),
    ],
)
def test_tool_reports_errors_in_one_line(words: list[Any], message: str, tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, "complexity", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_tool_needs_a_command(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
