"""bf16 and fp16, the loss scaler, torch.compile and activation checkpointing in whole runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from octvideo import create_model
from octvideo.config import dump, load_cfg
from octvideo.distributed.preemption import Preempted
from octvideo.engine import load_checkpoint, run_test, run_train, save_checkpoint
from octvideo.engine.averaging import has_finite_statistics, update_bn_statistics
from octvideo.engine.checkpoint import list_checkpoints
from octvideo.engine.meters import TrainMeter
from octvideo.engine.precision import Evaluation, autocast, compile_model, known_faults
from octvideo.engine.start import check_run, start_run
from octvideo.engine.train import build_trainer
from octvideo.engine.update import MAX_LOST, MAX_SKIPPED, LossScaler
from octvideo.utils.errors import UserError
from support import ROOT
from support.steps import TensorStep
from support.stopping import StopAfter

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"
CPU = torch.device("cpu")


@pytest.fixture
def opts(tiny_opts):
    """Options -> a tiny octave I3D of 8 frames; shorter clips hit an error of torch in bf16."""
    return lambda *more: load_cfg(CFG, [*tiny_opts, "DATA.NUM_FRAMES", "8", *map(str, more)])


def stats_of(cfg, kind):
    lines = (Path(cfg.OUTPUT_DIR) / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.removeprefix("json_stats: ")) for line in lines]
    return [s for s in stats if s["_type"] == kind]


def newest(cfg):
    return load_checkpoint(list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1])


def assert_same_run(a, b):
    """Two checkpoints: weights, averages, momentum and scaler."""
    for key in ("model_state", "ema_state"):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key]), key
    assert a["optimizer_state"]["state"]  # some steps were not skipped
    for i, state in a["optimizer_state"]["state"].items():
        other = b["optimizer_state"]["state"][i]
        assert torch.equal(state["momentum_buffer"], other["momentum_buffer"])
    assert a["scaler_state"] == b["scaler_state"]


# ---------------------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_losses_are_those_of_fp32(opts, tmp_path, monkeypatch):
    """Four steps from the same weights; the whole run with precise BN, validation and a test."""
    start_scale_at(monkeypatch, 2.0**10)  # a network so small overflows at torch's
    losses, scores = {}, {}
    for name in ("fp32", "bf16", "fp16"):
        cfg = opts(
            *("TRAIN.PRECISION", name, "TEST.PRECISION", name, "OUTPUT_DIR", tmp_path / name),
            *("SOLVER.MAX_EPOCH", 1, "LOG_PERIOD", 1, "EMA.ENABLE", True, "EMA.DECAY", 0.5),
        )
        run_train(cfg)
        run_test(cfg)
        losses[name] = [s["loss"] for s in stats_of(cfg, "train_iter")]
        scores[name] = stats_of(cfg, "val_epoch")[0]["top1_err"]
        content = newest(cfg)
        tensors = content["model_state"].values()
        assert not any(t.dtype in (torch.bfloat16, torch.float16) for t in tensors)
        assert (content["scaler_state"] != {}) == (name == "fp16")
    for precision in ("bf16", "fp16"):
        assert losses[precision] != losses["fp32"]
        assert losses[precision] == pytest.approx(losses["fp32"], rel=0.03)
        assert scores[precision] == pytest.approx(scores["fp32"], abs=30)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["TRAIN.PRECISION", "bf16", "MODEL.ACT_CHECKPOINT", True],
        ["TRAIN.MIXED_PRECISION", True, "TRAIN.ACCUMULATE_STEPS", 2, "SOLVER.CLIP_GRAD_L2NORM", 1],
    ],
)
def test_a_stopped_run_goes_on_exactly(opts, tmp_path, monkeypatch, more):
    """In fp16 also through a step that is skipped: the scale is as it was left."""
    start_scale_at(monkeypatch, 2.0**15)
    more = [*more, "EMA.ENABLE", True, "TRAIN.EVAL_PERIOD", 0]
    straight = opts(*more, "OUTPUT_DIR", tmp_path / "straight")
    run_train(straight)
    cfg = opts(*more)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(2))
    torch.manual_seed(99)
    run_train(cfg)
    assert_same_run(newest(cfg), newest(straight))


def start_scale_at(monkeypatch, scale):
    class Scaler(LossScaler):
        def __init__(self, device, enabled):
            super().__init__(device, enabled)
            if enabled:
                self.load_state_dict({**self.state_dict(), "scale": scale})

    monkeypatch.setattr("octvideo.engine.update.LossScaler", Scaler)


def test_the_log_tells_of_skipped_steps(opts, monkeypatch):
    start_scale_at(monkeypatch, 2.0**36)
    cfg = opts("TRAIN.PRECISION", "fp16", "LOG_PERIOD", 1, "SOLVER.MAX_EPOCH", 1)
    run_train(cfg)
    steps, (epoch,) = stats_of(cfg, "train_iter"), stats_of(cfg, "train_epoch")
    assert steps[0]["skipped_steps"] == 1
    assert steps[0]["grad_norm"] is None
    assert 1 <= epoch["skipped_steps"] == steps[-1]["skipped_steps"]
    assert epoch["loss_scale"] == pytest.approx(2.0 ** (36 - epoch["skipped_steps"]), rel=1e-4)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert (
        f"{epoch['skipped_steps']} steps skipped, as gradients were not finite; loss scale" in log
    )


@pytest.mark.parametrize("log_period", [1, 100])
def test_a_network_that_is_lost_ends_the_run_in_fp16_too(opts, log_period):
    more = ["SOLVER.BASE_LR", 1e30, "LOG_PERIOD", log_period]
    cfg = opts("TRAIN.PRECISION", "fp16", *more)
    with pytest.raises(UserError, match=r"the loss is nan or inf for 3 steps.*SOLVER\.BASE_LR"):
        run_train(cfg)
    assert not list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")


@pytest.mark.slow
def test_a_checkpoint_of_pyslowfast_brings_its_scale(opts):
    """Its scaler_state is what torch's GradScaler gives, and its optimizer was not fused."""
    cfg = opts("TRAIN.MIXED_PRECISION", True)
    trainer = build_trainer(cfg, start_run(cfg))
    optimizer = trainer.optimizer.state_dict()
    for group in optimizer["param_groups"]:
        del group["fused"]
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0).state_dict()
    content = {
        "epoch": 0,
        "model_state": trainer.model.state_dict(),
        "optimizer_state": optimizer,
        "cfg": dump(cfg),
        "scaler_state": {**scaler, "_growth_tracker": 7},
    }
    path = Path(cfg.OUTPUT_DIR) / "checkpoints/checkpoint_epoch_00001.pyth"
    save_checkpoint(path, content)
    trainer.start()
    assert trainer.step.update.scaler.get_scale() == 512.0
    assert trainer.step.update.scaler.state_dict()["_growth_tracker"] == 7
    assert trainer.progress.epoch == 1
    run_train(cfg)


@pytest.mark.slow  # tracing takes a minute
def test_a_compiled_run(opts, monkeypatch):
    """Resume, precise BN, EMA, validation and test, with the graphs traced but run by torch."""
    compiled = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kw: compiled(self, backend="eager", **kw)
    )
    more = ["TRAIN.COMPILE", True, "TEST.COMPILE", True, "EMA.ENABLE", True]
    more += ["TEST.BATCH_SIZE", 4, "RESNET.DEPTH", 14]  # six views: 4 and 2
    plain = opts("EMA.ENABLE", True, "TEST.BATCH_SIZE", 4, "RESNET.DEPTH", 14)
    torch._dynamo.reset()
    cfg = opts(*more, "OUTPUT_DIR", Path(plain.OUTPUT_DIR).with_name("compiled"))
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    with pytest.raises(Preempted):
        trainer.run(StopAfter(2))
    run_train(cfg)
    run_train(plain)
    assert_same_run(newest(cfg), newest(plain))
    assert run_test(cfg)["top1_acc"] == run_test(plain)["top1_acc"]


# ---------------------------------------------------------------------------- parts


def make_step(network, **options):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return TensorStep(network, optimizer, **options)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])


def linear():
    torch.manual_seed(1)
    return nn.Linear(5, 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip", [{"clip_norm": 0.05}, {"clip_value": 0.01}])
def test_clipping_is_of_the_whole_and_true_gradient(batch, monkeypatch, precision, clip):
    """Parts with clipping give what clipping by hand gives, in one fp32 batch without a scale."""
    start_scale_at(monkeypatch, 2.0**8)
    network = linear()
    nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()
    parameters = list(network.parameters())
    norm = float(torch.cat([p.grad.flatten() for p in parameters]).norm())
    factor = min(1, clip.get("clip_norm", norm) / norm)
    limit = clip.get("clip_value", float("inf"))
    wanted = [p - 0.1 * (p.grad * factor).clamp(-limit, limit) for p in parameters]
    own = linear()
    step = make_step(own, precision=precision, parts=3, **clip)
    step(*batch, [])
    for p, w in zip(own.parameters(), wanted, strict=True):
        torch.testing.assert_close(p, w, rtol=0, atol=1e-6 if precision == "fp32" else 2e-4)
    if "clip_norm" in clip:
        assert step.update.grad_norm() == pytest.approx(
            norm, rel=1e-5 if precision == "fp32" else 1e-2
        )


def test_a_limit_of_each_gradient_leaves_the_norm_alone(batch):
    """With both limits PySlowFast applies this one: the step that it takes, by hand."""
    network = linear()
    nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()
    parameters = list(network.parameters())
    norm = float(torch.cat([p.grad.flatten() for p in parameters]).norm())
    wanted = [p - 0.1 * p.grad.clamp(-0.01, 0.01) for p in parameters]
    own = linear()
    step = make_step(own, clip_value=0.01, clip_norm=0.005)
    step(*batch, [])
    for p, w in zip(own.parameters(), wanted, strict=True):
        torch.testing.assert_close(p, w)
    clipped = float(torch.cat([p.grad.flatten() for p in own.parameters()]).norm())
    assert 0.005 < clipped < norm  # both limits would have had an effect


def test_a_skipped_step_changes_nothing_and_is_counted(batch):
    network = linear()
    before = [p.clone() for p in network.parameters()]
    step, meter = make_step(network, precision="fp16"), TrainMeter(CPU, skip_lost=True)
    step(batch[0] * 1e30, batch[1], [meter])  # beyond fp16 on the way forward: no loss
    assert meter.read()["loss"] != meter.read()["loss"]  # nan: there was none
    step(*batch, [meter])
    loss = meter.read()["loss"]
    assert loss == loss
    assert step.update.scaling() == {"skipped_steps": 1, "loss_scale": 32768.0}
    assert step.update.failure(loss) is None
    assert all(p.isfinite().all() for p in network.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    for _ in range(MAX_LOST):
        assert step.update.failure(loss) is None
        step(batch[0] * 1e30, batch[1], [])
    assert "3 steps in a row" in step.update.failure(loss)


def test_gradients_that_overflow_at_any_scale_end_the_run(batch):
    network = linear()
    network.weight.register_hook(lambda g: g * float("inf"))
    step = make_step(network, precision="fp16")
    for _ in range(MAX_SKIPPED):
        assert step.update.failure(1.0) is None
        step(*batch, [])
    assert "overflow fp16 even at a loss scale of" in step.update.failure(1.0)


class Reads(TorchDispatchMode):
    """Counts what the host reads from the device; it waits for it each time."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "more",
    [
        ("TRAIN.PRECISION", "fp32", "EMA.ENABLE", True, "SOLVER.CLIP_GRAD_L2NORM", 1.0),
        ("TRAIN.PRECISION", "fp16", "TRAIN.ACCUMULATE_STEPS", 2),
        ("TRAIN.NONFINITE_LOSS", "skip", "SOLVER.LARS_ON", True),
    ],
)
def test_a_step_never_waits_for_the_device(opts, more):
    trainer = build_trainer(opts(*more), CPU)
    batch = next(iter(trainer.train_loader))
    trainer.train_step(batch)  # the first step of an optimizer may
    with Reads() as reads:
        trainer.train_step(batch)
        assert reads.count == 0
        trainer.step.update.grad_norm()  # for the log
        assert reads.count > 0


def test_statistics_that_a_batch_has_spoilt_are_seen_and_mended():
    network = nn.Sequential(nn.BatchNorm1d(5))
    assert has_finite_statistics(network)
    network(torch.full((4, 5), float("inf")))
    assert not has_finite_statistics(network)
    update_bn_statistics(network, [torch.randn(4, 5)])
    assert has_finite_statistics(network)


def test_precise_statistics_of_a_compiled_model():
    """Its graph, made before the hooks, would not call them."""
    batches = [torch.randn(n, 5) for n in (4, 4)]
    plain, compiled = nn.Sequential(nn.BatchNorm1d(5)), nn.Sequential(nn.BatchNorm1d(5))
    compiled.compile(backend="eager")
    compiled(torch.randn(4, 5))
    compiled[0].reset_running_stats()
    for model in (plain, compiled):
        update_bn_statistics(model, batches)
    assert torch.equal(plain[0].running_mean, compiled[0].running_mean)


def test_small_batches_are_filled_up_for_a_compiled_model():
    sizes = []

    class Sum(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.sum((2, 3, 4))

    clips = torch.rand(4, 3, 2, 4, 4)
    evaluate = Evaluation(Sum(), CPU, "fp32", compiled=True)
    for count in (4, 1, 3):
        torch.testing.assert_close(evaluate(clips[:count]), clips[:count].sum((2, 3, 4)))
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_head_averages_in_fp32(precision):
    model = create_model("i3d_r18", depth=10, num_classes=5, crop_size=32, width_per_group=8)
    clips = torch.rand(2, 3, 8, 64, 64)
    with torch.inference_mode():
        wanted = model.eval()(clips)
        with autocast(CPU, precision):
            scores = model(clips)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.sum(1), torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(scores, wanted, rtol=0.05, atol=1e-3)


def test_the_names_in_a_state_dict_stay_when_it_is_compiled():
    model = create_model("i3d_r18", depth=10, num_classes=5, crop_size=32, width_per_group=8)
    keys = list(model.state_dict())
    compile_model(model)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("torch_version", "cudnn", "precisions", "faults"),
    [
        ("2.9.1+cu128", 91002, {"fp32"}, []),
        ("2.9.1+cu128", 91002, {"fp16"}, ["torch 2.9.1"]),
        ("2.9.0", 91002, {"bf16", "fp32"}, ["torch 2.9.0", "cuDNN 9.10.2"]),
        ("2.8.0", 90800, {"bf16"}, ["cuDNN 9.8.0"]),
        ("2.8.0", 90701, {"bf16"}, []),
        ("2.10.0", 91501, {"bf16"}, []),
        ("2.9.0", None, {"bf16"}, []),
    ],
)
def test_versions_with_faults(torch_version, cudnn, precisions, faults):
    found = known_faults(torch_version, cudnn, precisions)
    assert len(found) == len(faults)
    assert all(fault in text for fault, text in zip(faults, found, strict=True))


def test_a_missing_compiler_is_found_before_any_work(opts, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    check_run(opts("SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False))
    with pytest.raises(UserError, match=r"TRAIN\.COMPILE on a CPU needs a C\+\+ compiler"):
        check_run(opts("TRAIN.COMPILE", True, "TEST.ENABLE", False))


def test_short_clips_in_bf16_are_warned_of(opts):
    cfg = opts("TRAIN.PRECISION", "bf16", "DATA.NUM_FRAMES", 4)
    start_run(cfg)
    assert "wrong gradients" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


# ---------------------------------------------------------------------------- what a GPU shows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu(opts, precision):
    """The fused optimizer with the scaler, and cuDNN in each precision."""
    more = ["NUM_GPUS", 1, "TRAIN.PRECISION", precision, "TEST.PRECISION", precision]
    cfg = opts(*more, "ALLOW_TF32", False)
    trainer = build_trainer(cfg, start_run(cfg))
    assert all(group["fused"] for group in trainer.optimizer.param_groups)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
    run_train(cfg)
    assert run_test(cfg)["num_videos"] == 8
