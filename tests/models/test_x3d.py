"""X3D: PyTorchVideo's numbers, PySlowFast's names, the paper's counts, and its octave form."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.layers import OctConv3d, maps_of
from octvideo.models import X3DSpec, build_model
from octvideo.utils.complexity import count
from octvideo.weights.names.pytorchvideo import pytorchvideo_names
from support import ROOT
from support.layer_counts import octave_macs
from support.peer import import_pytorchvideo
from support.peer_networks import randomise

# Published: multiply-adds of a clip at the training crop in billions, and parameters in millions.
PUBLISHED = {
    "x3d_xs": (0.60, 3.79),
    "x3d_s": (1.96, 3.79),
    "x3d_m": (4.73, 3.79),
    "x3d_l": (18.37, 6.15),
}


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    model = on_meta(name)
    side = model.spec.crop_size
    cost = count(model, (1, 3, model.spec.num_frames, side, side))
    billions, millions = PUBLISHED[name]
    assert cost.macs / 1e9 == pytest.approx(billions, abs=0.006)
    assert cost.params / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    "alpha", [0.25, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.125, 0.5))]
)
@pytest.mark.parametrize("name", ["x3d_xs", pytest.param("x3d_l", marks=pytest.mark.slow)])
def test_octave_counts_by_the_paper(name: str, alpha: float) -> None:
    vanilla, octave = on_meta(name), on_meta(name, octave_alpha=alpha)
    clip = (1, 3, vanilla.spec.num_frames, *[vanilla.spec.crop_size] * 2)
    assert count(octave, clip).macs == octave_macs(vanilla, alpha, clip) < count(vanilla, clip).macs


def pyslowfast_keys(spec: X3DSpec, bn_lin5: bool = False) -> list[str]:
    """The names in a checkpoint of PySlowFast's X3D, in its order."""

    def norm(name: str) -> list[str]:
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{part}" for part in parts]

    stem = "s1.pathway0_stem"
    keys = [f"{stem}.conv_xy.weight", f"{stem}.conv.weight", *norm(f"{stem}.bn")]
    for stage, blocks in zip((2, 3, 4, 5), spec.block_counts(), strict=True):
        for i in range(blocks):
            block = f"s{stage}.pathway0_res{i}"
            if i == 0:
                keys += [f"{block}.branch1.weight", *norm(f"{block}.branch1_bn")]
            for letter in "abc":
                conv = f"{block}.branch2.{letter}"
                keys += [f"{conv}.weight", *norm(f"{conv}_bn")]
                if letter == "b" and i % 2 == 0:
                    fcs = [f"{block}.branch2.se.fc{n}" for n in (1, 2)]
                    keys += [f"{fc}.{part}" for fc in fcs for part in ("weight", "bias")]
    keys += ["head.conv_5.weight", *norm("head.conv_5_bn"), "head.lin_5.weight"]
    keys += norm("head.lin_5_bn") if bn_lin5 else []
    return [*keys, "head.projection.weight", "head.projection.bias"]


@pytest.mark.parametrize("bn_lin5", [False, True])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "x3d_l")) for n in PUBLISHED]
)
def test_names_of_pyslowfast(name: str, bn_lin5: bool) -> None:
    model = on_meta(name, bn_lin5=bn_lin5)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert list(shapes) == pyslowfast_keys(model.spec, bn_lin5)
    assert list(on_meta(name, bn_lin5=bn_lin5, octave_alpha=0.25).state_dict()) == list(shapes)
    for key, shape in {
        "s1.pathway0_stem.conv_xy.weight": (24, 3, 1, 3, 3),
        "s1.pathway0_stem.conv.weight": (24, 1, 5, 1, 1),
        "s2.pathway0_res0.branch1.weight": (24, 24, 1, 1, 1),
        "s2.pathway0_res0.branch2.se.fc1.weight": (8, 54, 1, 1, 1),
        "s4.pathway0_res2.branch2.b.weight": (216, 1, 3, 3, 3),
        "s5.pathway0_res0.branch2.se.fc1.weight": (32, 432, 1, 1, 1),
        "head.lin_5.weight": (2048, 432, 1, 1, 1),
        "head.projection.weight": (400, 2048),
    }.items():
        assert shapes[key] == shape


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"width_factor": 1.2, "dim_c1": 10}, {"width_factor": 1.2, "stem_dim_in": 10}),
        (
            {"bn_lin5": True, "depth_factor": 0.3, "bottleneck_factor": 1.5, "dim_c5": 64},
            {
                **{"head_bn_lin5_on": True, "depth_factor": 0.3, "bottleneck_factor": 1.5},
                "head_dim_out": 64,
            },
        ),
        pytest.param({"depth_factor": 5.0}, {"depth_factor": 5.0}, marks=pytest.mark.slow),
    ],
    ids=["as published", "widths", "head", "L"],
)
@pytest.mark.parametrize("size", [(64, 64), (91, 70)], ids=str)
def test_pytorchvideo_gives_the_same(
    options: dict[str, Any], theirs: dict[str, Any], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    peer = import_pytorchvideo("models.x3d").create_x3d(
        model_num_class=10, input_clip_length=4, input_crop_size=50, head_activation=None, **theirs
    )
    ours = create_model(
        *("x3d_xs", 10), crop_size=50, head_activation="none", pytorchvideo=True, **options
    )
    ours, peer = ours.double(), peer.double()
    x = torch.randn(2, 3, 4, *size).double() + torch.randn(2, 3, 1, 1, 1)
    randomise(ours, x, 0.1)
    names = pytorchvideo_names(peer.state_dict())
    own = ours.eval().state_dict()
    assert set(names.values()) == own.keys()
    peer.load_state_dict({key: own[name] for key, name in names.items()}, strict=True)
    with torch.no_grad():
        got, want = ours(x), peer.eval()(x)
    assert (want[0] - want[1]).abs().max() > 1e-2 * want.abs().max()
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


def test_files_of_pytorchvideo(tmp_path: Path) -> None:
    """It has no batch norm on res2's shortcut, nor has the network that is built for it."""
    torch.manual_seed(0)
    peer = import_pytorchvideo("models.x3d").create_x3d(input_clip_length=4, input_crop_size=160)
    torch.save({"model_state": peer.state_dict()}, tmp_path / "X3D_XS.pyth")
    model = create_model("x3d_xs", pretrained=tmp_path / "X3D_XS.pyth")
    assert model.spec.pytorchvideo
    x = torch.randn(1, 3, 4, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), peer.eval()(x))
    octave = create_model("x3d_xs", 7, 0.25, pretrained=tmp_path / "X3D_XS.pyth")
    assert octave.spec.pytorchvideo


def test_octave_stages_keep_two_resolutions() -> None:
    """Depthwise convolutions follow their input, and gates and Swish act on both frequencies."""
    torch.manual_seed(0)
    model = create_model("x3d_xs", 5, 0.25, crop_size=64).eval()
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        if name.endswith((".branch2.b", ".branch2.se", ".branch2.swish")):
            module.register_forward_hook(lambda _m, _x, y, name=name: seen.update({name: y}))
    with torch.no_grad():
        model(torch.randn(1, 3, 4, 64, 64))
    depthwise = [m for n, m in model.named_modules() if n.endswith("branch2.b")]
    assert all(isinstance(m, OctConv3d) and m.is_depthwise for m in depthwise)
    for name, y in seen.items():
        low, high = maps_of(y)
        assert low.shape[3] == -(-high.shape[3] // 2), name


PYSLOWFAST_M = """
TRAIN: {DATASET: kinetics, BATCH_SIZE: 128, EVAL_PERIOD: 10, CHECKPOINT_PERIOD: 10}
X3D: {WIDTH_FACTOR: 2.0, DEPTH_FACTOR: 2.2, BOTTLENECK_FACTOR: 2.25, DIM_C5: 2048, DIM_C1: 12}
TEST: {ENABLE: True, DATASET: kinetics, BATCH_SIZE: 64, NUM_SPATIAL_CROPS: 3}
DATA: {NUM_FRAMES: 16, SAMPLING_RATE: 5, TRAIN_JITTER_SCALES: [256, 320], TRAIN_CROP_SIZE: 224,
  TEST_CROP_SIZE: 256, INPUT_CHANNEL_NUM: [3], DECODING_BACKEND: torchvision}
RESNET: {ZERO_INIT_FINAL_BN: True, TRANS_FUNC: x3d_transform, STRIDE_1X1: False}
BN: {USE_PRECISE_STATS: True, NUM_BATCHES_PRECISE: 200, WEIGHT_DECAY: 0.0}
SOLVER: {BASE_LR: 0.1, BASE_LR_SCALE_NUM_SHARDS: True, LR_POLICY: cosine, MAX_EPOCH: 300,
  WEIGHT_DECAY: 5e-5, WARMUP_EPOCHS: 35.0, WARMUP_START_LR: 0.01, OPTIMIZING_METHOD: sgd}
MODEL: {NUM_CLASSES: 400, ARCH: x3d, MODEL_NAME: X3D, LOSS_FUNC: cross_entropy, DROPOUT_RATE: 0.5}
DATA_LOADER: {NUM_WORKERS: 8, PIN_MEMORY: True}
NUM_GPUS: 8
RNG_SEED: 0
OUTPUT_DIR: ./runs/X3D_M
"""


def test_a_file_of_pyslowfast_is_our_recipe(tmp_path: Path) -> None:
    path = tmp_path / "X3D_M.yaml"
    path.write_text(PYSLOWFAST_M)
    cfg, ours = load_cfg(path), load_cfg(ROOT / "configs" / "Kinetics" / "X3D_M.yaml")
    ours.defrost()
    ours.TRAIN.KEEP_CHECKPOINTS = cfg.TRAIN.KEEP_CHECKPOINTS
    assert cfg == ours
    path.write_text(yaml.safe_dump({**yaml.safe_load(PYSLOWFAST_M), "OUTPUT_DIR": "."}))
    with torch.device("meta"):
        spec = build_model(load_cfg(path)).spec
        peer = build_model(load_cfg(path, ["MODEL.MODEL_NAME", "PTVX3D"])).spec
    assert not spec.differences(on_meta("x3d_m").spec)
    assert [str(d) for d in spec.differences(peer)] == ["pytorchvideo was False, is True"]
    assert X3DSpec(**{**vars(spec), "num_frames": 4}).differences(spec) == []


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("WIDTH_FACTOR", 1.0, {"width_factor": 1.0}),
        ("DEPTH_FACTOR", 1.0, {"depth_factor": 1.0}),
        ("BOTTLENECK_FACTOR", 3.0, {"bottleneck_factor": 3.0}),
        ("DIM_C1", 16, {"dim_c1": 16}),
        ("DIM_C5", 64, {"dim_c5": 64}),
        ("SCALE_RES2", True, {"scale_res2": True}),
        ("BN_LIN5", True, {"bn_lin5": True}),
        ("CHANNELWISE_3x3x3", False, {"channelwise": False}),
        ("PYTORCHVIDEO", True, {"pytorchvideo": True}),
    ],
)
def test_every_key_is_an_option(key: str, value: Any, option: dict[str, Any]) -> None:
    cfg = load_cfg("Kinetics/X3D_M", [f"X3D.{key}", value])
    with torch.device("meta"):
        model, plain = build_model(cfg), build_model(load_cfg("Kinetics/X3D_M"))
    wanted = on_meta("x3d_m", **option)
    [difference] = plain.spec.differences(model.spec)
    assert difference.key == f"X3D.{key}"
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in wanted.state_dict().items()}
    assert shapes != {name: tensor.shape for name, tensor in plain.state_dict().items()}


def test_widths_of_pyslowfast() -> None:
    """round_width: by 8 from stage to stage, by 1 with the factor; SCALE_RES2 doubles all."""
    widths = [X3DSpec(width_factor=1.1, dim_c1=10).width(stage) for stage in range(1, 6)]
    assert widths == [11, 11, 26, 53, 106]
    widths = [X3DSpec(scale_res2=True).width(stage) for stage in range(1, 6)]
    assert widths == [24, 48, 96, 192, 384]


@pytest.mark.parametrize(
    "options",
    [
        {"width_factor": 0.0},
        {"depth_factor": -1.0},
        {"dim_c5": 0},
        {"arch": "i3d"},
        {"pytorchvideo": True, "scale_res2": True},
        {"pytorchvideo": True, "channelwise": False},
        {"width_per_group": 8},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(options)[-1]):
        create_model("x3d_m", **options)
