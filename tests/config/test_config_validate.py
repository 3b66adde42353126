"""Ranges, choices, impossible combinations, the machine, and the batch and rate that follow."""

import logging
from typing import Any

import pytest

from octvideo.config import (
    ConfigError,
    Processes,
    batch_per_process,
    check_machine,
    describe_scaling,
    effective_base_lr,
    get_cfg,
    global_batch_size,
    linear_rule_lr,
    load_cfg,
    train_precision,
    validate,
)
from octvideo.config.pyslowfast import IMAGE_DEPTHS
from octvideo.config.unsupported import NOT_YET
from octvideo.distributed.launcher_env import launched_processes, processes_of
from octvideo.engine.optim import build_schedule
from octvideo.models import list_models
from octvideo.models.from_cfg import spec_of


def problems_of(*opts: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_cfg(opts=opts)
    return caught.value.problems


def test_defaults_are_possible() -> None:
    assert validate(get_cfg()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATA.DECODING_BACKEND", "opencv"),
        ("DATA.ENSEMBLE_METHOD", "mean"),
        ("DIST_BACKEND", "mpi"),
        ("MODEL.ARCH", "resnet"),
        ("MODEL.HEAD_ACT", "relu"),
        ("NONLOCAL.INSTANTIATION", "gaussian"),
        ("OCTAVE.NONLOCAL_MODE", "low"),
        ("RESNET.TRANS_FUNC", "dense_transform"),
        ("SOLVER.LR_POLICY", "exp"),
        ("SOLVER.OPTIMIZING_METHOD", "lamb"),
        ("TEST.NUM_SPATIAL_CROPS", 4),
        ("TRAIN.PRECISION", "fp8"),
        ("TRAIN.CHECKPOINT_TYPE", "onnx"),
        ("TRAIN.DATASET", "ucf101"),
    ],
)
def test_choices(key: str, value: Any) -> None:
    (problem,) = problems_of(key, value)
    assert problem.startswith(f"command line: {key} is {value!r}: set one of ")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("OCTAVE.ALPHA", 1.0, "in [0, 1)"),
        ("OCTAVE.ALPHA", -0.1, "in [0, 1)"),
        ("OCTAVE.STAGES", [1, 2], "among 2, 3, 4, 5"),
        ("OCTAVE.CHANNEL_DIVISOR", 0, "at least 1"),
        ("NUM_GPUS", -1, "0 or more"),
        ("NUM_SHARDS", 0, "at least 1"),
        ("TRAIN.ACCUMULATE_STEPS", 0, "at least 1"),
        ("TRAIN.EVAL_PERIOD", -1, "0 or more"),
        ("TRAIN.KEEP_CHECKPOINTS", -1, "0 or more"),
        ("DATA.NUM_FRAMES", 0, "at least 1"),
        ("DATA.TEST_CROP_SIZE", 0, "at least 1"),
        ("DATA.STD", [0.2, 0.2, 0.0], "above 0"),
        ("DATA.INPUT_CHANNEL_NUM", [1], "3, as videos are RGB"),
        ("MODEL.DROPOUT_RATE", 1.0, "in [0, 1)"),
        ("BN.MOMENTUM", 0.0, "in (0, 1]"),
        ("SOLVER.BASE_LR", 0.0, "above 0"),
        ("SOLVER.CLIP_GRAD_VAL", 0.0, "above 0"),
        ("RESNET.DEPTH", 0, "at least 1"),
        ("EMA.DECAY", 1.0, "in [0, 1)"),
        ("AUG.NUM_SAMPLE", 0, "at least 1"),
        ("AUG.RE_PROB", 1.5, "in [0, 1]"),
        ("MIXUP.SWITCH_PROB", -0.5, "in [0, 1]"),
        ("MIXUP.CUTMIX_ALPHA", -1.0, "0 or more"),
    ],
)
def test_ranges(key: str, value: Any, text: str) -> None:
    assert any(f"{key} must be {text}, got {value}" in p for p in problems_of(key, value))


@pytest.mark.parametrize(
    ("opts", "key", "advice"),
    [
        ("NUM_GPUS 8 TRAIN.BATCH_SIZE 12", "TRAIN.BATCH_SIZE", "set a multiple of 8"),
        ("NUM_GPUS 3 TRAIN.ENABLE False", "TEST.BATCH_SIZE", "set a multiple of 3"),
        ("NUM_GPUS 8 TRAIN.ACCUMULATE_STEPS 16", "TRAIN.ACCUMULATE_STEPS", "set a divisor"),
        ("SHARD_ID 1", "SHARD_ID", "counted from 0"),
        ("DATA.PATH_LABEL_SEPARATOR=", "DATA.PATH_LABEL_SEPARATOR", "set ' ' or ','"),
        ("DATA.MEAN [0.5]", "DATA.MEAN", "one value each"),
        ("DATA.TRAIN_JITTER_SCALES [320,256]", "DATA.TRAIN_JITTER_SCALES", "[lowest, highest]"),
        ("DATA.TRAIN_CROP_SIZE 288", "DATA.TRAIN_JITTER_SCALES", "lower the crop"),
        (
            "DATA.TRAIN_JITTER_SCALES_RELATIVE [0.2,1.0]",
            "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
            "set both or neither",
        ),
        (
            "MODEL.ARCH c2d MODEL.MODEL_NAME SlowFast",
            "MODEL.MODEL_NAME",
            "set MODEL.MODEL_NAME ResNet",
        ),
        ("DATA.INPUT_CHANNEL_NUM []", "DATA.INPUT_CHANNEL_NUM", "set [3, 3]"),
        ("RESNET.SPATIAL_STRIDES [[1],[2],[2]]", "RESNET.SPATIAL_STRIDES", "four stages"),
        ("NONLOCAL.GROUP [[1],[1],[1],[]]", "NONLOCAL.GROUP", "with 2 values each"),
        ("NONLOCAL.POOL [[[1,2]],[[1]],[[1]],[[1]]]", "NONLOCAL.POOL", "three values"),
        ("MODEL.ARCH c2d DATA.NUM_FRAMES 1", "DATA.NUM_FRAMES", "set 2 or more"),
        (
            "RESNET.TRANS_FUNC basic_transform RESNET.NUM_GROUPS 32",
            "RESNET.NUM_GROUPS",
            "set RESNET.NUM_GROUPS 1",
        ),
        ("OCTAVE.ENABLE True OCTAVE.STAGES []", "OCTAVE.STAGES", "at least one"),
        ("OCTAVE.ENABLE True OCTAVE.STAGES [2,2]", "OCTAVE.STAGES", "none twice"),
        ("MODEL.ARCH c2d OCTAVE.ENABLE True OCTAVE.PATHWAYS [1]", "OCTAVE.PATHWAYS", "set [0]"),
        ("SOLVER.WARMUP_EPOCHS 34 SOLVER.MAX_EPOCH 34", "SOLVER.WARMUP_EPOCHS", "lower the first"),
        ("SOLVER.BETAS [0.9]", "SOLVER.BETAS", "two values"),
        ("SOLVER.MOMENTUM 0", "SOLVER.NESTEROV", "set SOLVER.NESTEROV False"),
        ("AUG.ENABLE True AUG.AA_TYPE augmix-m3", "AUG.AA_TYPE", "must begin with 'rand'"),
        ("AUG.ENABLE True AUG.AA_TYPE rand-m11", "AUG.AA_TYPE", "from 0 to 10"),
        ("AUG.ENABLE True AUG.RE_MODE blur", "AUG.RE_MODE", "set one of pixel, rand, const"),
        ("AUG.ENABLE True AUG.INTERPOLATION nearest", "AUG.INTERPOLATION", "set one of bicubic"),
        (
            "TRAIN.MIXED_PRECISION True TRAIN.PRECISION bf16",
            "TRAIN.MIXED_PRECISION",
            "set TRAIN.MIXED_PRECISION False, or TRAIN.PRECISION fp16",
        ),
        ("MIXUP.ENABLE True", "MODEL.LOSS_FUNC", "set MODEL.LOSS_FUNC soft_cross_entropy"),
        (
            "MIXUP.ENABLE True MODEL.LOSS_FUNC bce_logit TRAIN.BATCH_SIZE 1",
            "TRAIN.BATCH_SIZE",
            "set TRAIN.BATCH_SIZE 2 or more",
        ),
    ],
)
def test_impossible_combinations(opts: str, key: str, advice: str) -> None:
    (problem,) = problems_of(*opts.split(" "))
    assert f": {key} " in problem
    assert advice in problem


@pytest.mark.parametrize(
    ("steps", "lrs", "key"),
    [
        ([], [], "SOLVER.STEPS"),
        ([1, 2], [1, 0.1], "SOLVER.STEPS"),
        ([0, 40, 28, 14], [1, 0.1, 0.01, 0.001], "SOLVER.STEPS"),
        ([0, 44, 88], [1, 0.1], "SOLVER.LRS"),
    ],
)
def test_steps_and_rates(steps: list[int], lrs: list[float], key: str) -> None:
    opts = ("SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", steps, "SOLVER.LRS", lrs)
    (problem,) = problems_of(*opts)
    assert f"{key} " in problem


def test_surplus_rates_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """PySlowFast's SLOWFAST_8x8_R50_stepwise has six rates for four steps."""
    with caplog.at_level(logging.WARNING, logger="octvideo"):
        load_cfg(
            opts=[
                *("SOLVER.LR_POLICY", "steps_with_relative_lrs"),
                *("SOLVER.STEPS", [0, 94, 154], "SOLVER.LRS", [1, 0.1, 0.01, 0.001]),
            ]
        )
    assert "[0.001] are ignored" in caplog.text


@pytest.mark.parametrize(("value", "norm"), [(0.1, None), (None, 5.0), (0.1, 5.0)])
def test_two_limits_of_the_gradients_are_a_warning(value, norm, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="octvideo"):
        load_cfg(opts=["SOLVER.CLIP_GRAD_VAL", value, "SOLVER.CLIP_GRAD_L2NORM", norm])
    assert ("CLIP_GRAD_L2NORM is ignored" in caplog.text) == (None not in (value, norm))


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        ("AUG.ENABLE=True AUG.AA_TYPE=", "AUG.COLOR_JITTER"),
        ("AUG.ENABLE=True AUG.RE_SPLIT=True", "AUG.RE_SPLIT"),
        ("NUM_GPUS=0 TRAIN.PRECISION=fp16", "TRAIN.PRECISION fp16"),
        ("NUM_GPUS=0 TEST.PRECISION=fp16", "TEST.PRECISION fp16"),
        ("TRAIN.ENABLE=False MODEL.ACT_CHECKPOINT=True", "MODEL.ACT_CHECKPOINT"),
    ],
)
def test_recipes_without_effect_are_a_warning(
    opts: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="octvideo"):
        load_cfg(opts=opts.split(" "))
    assert key in caplog.text


def test_a_batch_of_copies_can_be_mixed_and_is_told() -> None:
    opts = ["MIXUP.ENABLE=True", "MODEL.LOSS_FUNC=soft_cross_entropy", "AUG.NUM_SAMPLE=2"]
    cfg = load_cfg(opts=[*opts, "TRAIN.BATCH_SIZE=1"])
    assert "1 clips each in 2 copies" in describe_scaling(cfg, processes_of(cfg))[0]


@pytest.mark.parametrize("key", NOT_YET)
def test_what_is_missing_is_refused(key: str) -> None:
    (problem,) = problems_of(key, True)
    assert f"{key} is True: " in problem
    assert f"is not supported yet; set {key} " in problem


IMAGE = ("MODEL.ARCH", "2d", "MODEL.MODEL_NAME", "resnet50_v2", "DATA.NUM_FRAMES", 1)


def test_image_networks_take_images_and_have_names(caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([*IMAGE])
    assert not validate(cfg)
    cfg.DATA.NUM_FRAMES, cfg.MODEL.MODEL_NAME = 8, "ResNet"
    texts = "\n".join(map(str, validate(cfg)))
    assert "MODEL.ARCH 2d takes images: set DATA.NUM_FRAMES 1" in texts
    assert "MODEL.MODEL_NAME ResNet is for videos" in texts
    assert "PySlowFast's ResNet is here of the depths 26, 50, 101, 152, 200" in texts
    assert {f"resnet{depth}_v1b" for depth in IMAGE_DEPTHS} <= set(list_models())
    load_cfg(opts=[*map(str, IMAGE), "RESNET.DEPTH", "101"])
    assert "RESNET.DEPTH is ignored: MODEL.MODEL_NAME resnet50_v2 fixes the network" in caplog.text


def test_one_value_a_stage_is_for_both_pathways_but_of_non_local_blocks() -> None:
    one = load_cfg(
        opts=["MODEL.ARCH", "slowfast", "RESNET.SPATIAL_DILATIONS", [[1], [1], [1], [2]]]
    )
    spec = spec_of(one)
    assert [p.spatial_dilations for p in spec.pathways()] == [(1, 1, 1, 2)] * 2
    assert [p.num_block_temp_kernel for p in spec.pathways()] == [(3, 4, 6, 3)] * 2
    (problem,) = problems_of("NONLOCAL.LOCATION", [[[]], [[1, 3]], [[]], [[]]])
    assert "NONLOCAL.LOCATION needs four stages (res2..res5) with 2 values each" in problem


SLOWFAST = (
    *("MODEL.ARCH", "slowfast", "DATA.NUM_FRAMES", 32),
    *("RESNET.NUM_BLOCK_TEMP_KERNEL", [[3, 3], [4, 4], [6, 6], [3, 3]]),
    *("RESNET.SPATIAL_STRIDES", [[1, 1], [2, 2], [2, 2], [2, 2]]),
    *("RESNET.SPATIAL_DILATIONS", [[1, 1]] * 4),
    *("NONLOCAL.LOCATION", [[[], []]] * 4, "NONLOCAL.GROUP", [[1, 1]] * 4),
)


@pytest.mark.parametrize(
    ("opts", "key", "advice"),
    [
        (("DATA.NUM_FRAMES", 4), "DATA.NUM_FRAMES", "no frame is left for the slow pathway"),
        (("DATA.NUM_FRAMES", 36), "DATA.NUM_FRAMES", "set, for example, DATA.NUM_FRAMES 32"),
        (
            ("RESNET.SPATIAL_STRIDES", [[1, 1], [2, 2], [2, 2], [1, 2]]),
            "RESNET.SPATIAL_STRIDES",
            "set the same for both",
        ),
        (
            ("TRAIN.CHECKPOINT_INFLATE", True),
            "TRAIN.CHECKPOINT_INFLATE",
            "no 2D network has the shapes of a SlowFast network",
        ),
        (("OCTAVE.ENABLE", True, "OCTAVE.PATHWAYS", [2]), "OCTAVE.PATHWAYS", "set [0, 1]"),
    ],
)
def test_impossible_slowfast(opts: tuple[Any, ...], key: str, advice: str) -> None:
    (problem,) = problems_of(*SLOWFAST, *opts)
    assert f": {key} " in problem
    assert advice in problem


@pytest.mark.parametrize("pathways", [[0], [1], [0, 1]])
def test_possible_slowfast(pathways: list[int]) -> None:
    load_cfg(opts=[*SLOWFAST, "OCTAVE.ENABLE", True, "OCTAVE.PATHWAYS", pathways])


@pytest.mark.parametrize("opts", ["AUG.RE_PROB 0.5 AUG.AA_TYPE x", "MIXUP.ALPHA 0.2"])
def test_values_of_disabled_features_are_free(opts: str) -> None:
    load_cfg(opts=opts.split())


@pytest.mark.parametrize(
    ("gpus", "devices", "message"),
    [
        (8, 0, "NUM_GPUS is 8 but no CUDA device was found: set NUM_GPUS 0 to run on the CPU"),
        (1, 0, "NUM_GPUS is 1 but no CUDA device was found: set NUM_GPUS 0 to run on the CPU"),
        (8, 4, "NUM_GPUS is 8 but the machine has 4 CUDA devices: set NUM_GPUS 1"),
        (2, 1, "NUM_GPUS is 2 but the machine has 1 CUDA device: set NUM_GPUS 1"),
    ],
)
def test_machine_that_does_not_fit(gpus: int, devices: int, message: str) -> None:
    cfg = load_cfg(opts=["NUM_GPUS", gpus])
    with pytest.raises(ConfigError) as caught:
        check_machine(cfg, devices, processes_of(cfg))
    assert str(caught.value) == message


@pytest.mark.parametrize(("gpus", "devices"), [(0, 0), (0, 8), (1, 1), (1, 8), (8, 8)])
def test_machine_that_fits(gpus: int, devices: int) -> None:
    cfg = load_cfg(opts=["NUM_GPUS", gpus])
    check_machine(cfg, devices, processes_of(cfg))


@pytest.mark.parametrize(
    ("opts", "batch", "per_process", "lr", "rule"),
    [
        ("", 64, 64, 0.1, 0.1),
        ("NUM_GPUS 8", 64, 8, 0.1, 0.1),
        ("NUM_GPUS 0 TRAIN.BATCH_SIZE 8", 8, 8, 0.1, 0.0125),
        ("NUM_GPUS 8 NUM_SHARDS 4", 256, 8, 0.1, 0.4),
        ("NUM_GPUS 8 NUM_SHARDS 4 SOLVER.BASE_LR_SCALE_NUM_SHARDS True", 256, 8, 0.4, 0.4),
        ("NUM_SHARDS 2 SOLVER.BASE_LR_SCALE_NUM_SHARDS True TRAIN.BATCH_SIZE 32", 64, 32, 0.2, 0.1),
    ],
)
def test_batch_and_rate(opts: str, batch: int, per_process: int, lr: float, rule: float) -> None:
    cfg = load_cfg(opts=opts.split())
    assert global_batch_size(cfg, processes_of(cfg)) == batch
    assert batch_per_process(cfg, processes_of(cfg)) == per_process
    assert effective_base_lr(cfg, processes_of(cfg)) == pytest.approx(lr)
    assert linear_rule_lr(cfg, global_batch_size(cfg, processes_of(cfg))) == pytest.approx(rule)
    line, warning = describe_scaling(cfg, processes_of(cfg))
    assert line.startswith(f"global batch {batch} ")
    assert line.endswith(f"base LR {lr:g}")
    assert (warning is None) == (lr == rule)
    if warning:
        assert f"gives {rule:g}" in warning


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": 13, "WORLD_SIZE": 16, "LOCAL_RANK": 5, "LOCAL_WORLD_SIZE": 8, "MASTER_PORT": 1},
        {
            **{"SLURM_STEP_NUM_TASKS": 16, "SLURM_STEP_TASKS_PER_NODE": "8(x2)"},
            **{"SLURM_JOB_ID": 1, "SLURM_PROCID": 13, "SLURM_LOCALID": 5},
        },
    ],
    ids=["torchrun", "slurm"],
)
def test_the_nodes_that_a_launcher_started_count(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, Any]
) -> None:
    """Two of eight processes, whatever NUM_SHARDS and NUM_GPUS say."""
    for name, value in {**environ, "MASTER_ADDR": "10.0.0.7"}.items():
        monkeypatch.setenv(name, str(value))
    opts = ["NUM_GPUS", "1", "TRAIN.BATCH_SIZE", "64", "SOLVER.COSINE_END_LR", "0.001"]
    launched = launched_processes()
    assert launched == Processes(8, 2, "torchrun" if "RANK" in environ else "SLURM")
    cfg = load_cfg(None, [*opts, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", "True"], launched)
    assert processes_of(cfg) == launched
    assert (global_batch_size(cfg, launched), batch_per_process(cfg, launched)) == (128, 8)
    assert effective_base_lr(cfg, launched) == pytest.approx(0.2) == linear_rule_lr(cfg, 128)
    line, warning = describe_scaling(cfg, launched)
    assert line == "global batch 128 (2 x 8 processes with 8 clips each), base LR 0.2"
    assert warning is None
    assert build_schedule(cfg)(cfg.SOLVER.MAX_EPOCH) == pytest.approx(0.002)
    plain = load_cfg(opts=opts)
    assert effective_base_lr(plain, launched) == 0.1
    assert "set SOLVER.BASE_LR 0.2" in str(describe_scaling(plain, launched)[1])
    with pytest.raises(ConfigError, match=f"the 8 processes that {launched.launcher} started"):
        load_cfg(None, ["TRAIN.BATCH_SIZE", "12"], launched)


def scaling(opts: list[str]) -> tuple[str, str | None]:
    cfg = load_cfg(opts=opts)
    return describe_scaling(cfg, processes_of(cfg))


def test_advice_of_the_linear_rule_fulfils_it() -> None:
    opts = ["NUM_SHARDS=2", "SOLVER.BASE_LR_SCALE_NUM_SHARDS=True", "TRAIN.BATCH_SIZE=16"]
    warning = scaling(opts)[1]
    assert warning is not None
    advice = warning.split("set ")[1].split(" to")[0]
    assert scaling([*opts, *advice.split()])[1] is None


def test_the_rule_is_of_sgd() -> None:
    cfg = load_cfg(opts=["SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "1e-4"])
    assert describe_scaling(cfg, processes_of(cfg))[1] is None


@pytest.mark.parametrize(
    ("opts", "precision"),
    [
        ("", "fp32"),
        ("TRAIN.PRECISION=bf16", "bf16"),
        ("TRAIN.MIXED_PRECISION=True", "fp16"),
        ("TRAIN.MIXED_PRECISION=True TRAIN.PRECISION=fp16", "fp16"),
    ],
)
def test_precision_by_either_name(opts: str, precision: str) -> None:
    assert train_precision(load_cfg(opts=opts.split())) == precision


def test_test_batch_per_process() -> None:
    assert batch_per_process(load_cfg(), Processes(2), "test") == 4
