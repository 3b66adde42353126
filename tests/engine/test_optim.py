import json

import pytest
import torch
from torch import nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.optim import build_optimizer, build_schedule, set_lr
from octvideo.engine.optimizer_state import OptimizerState
from octvideo.engine.state import Saved, load_state

COSINE = ["SOLVER.BASE_LR", "0.1", "SOLVER.LR_POLICY", "cosine", "SOLVER.MAX_EPOCH", "196"]
WARMUP = ["SOLVER.WARMUP_EPOCHS", "34", "SOLVER.WARMUP_START_LR", "0.01"]
STEPS = ["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.LRS", "[1, 0.1, 0.01, 0.001]"]
GOLDEN = {
    "I3D_8x8_R50": [*COSINE, *WARMUP],
    "I3D_8x8_R50_IN1K": [
        *STEPS,
        *["SOLVER.BASE_LR", "0.01", "SOLVER.STEPS", "[0, 44, 88, 118]", "SOLVER.MAX_EPOCH", "118"],
        *["SOLVER.WARMUP_EPOCHS", "0.0"],
    ],
    "SLOWFAST_8x8_R50_stepwise": [
        *STEPS,
        *["SOLVER.BASE_LR", "0.1", "SOLVER.STEPS", "[0, 94, 154, 196]", "SOLVER.MAX_EPOCH", "239"],
        *WARMUP,
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_learning_rates_are_those_of_pyslowfast(shared, name):
    golden = json.loads((shared / "data/pyslowfast/lr_golden.json").read_text())[name]
    schedule = build_schedule(load_cfg(None, GOLDEN[name]))
    assert len(golden) > 200
    for epoch, lr in golden.items():
        assert schedule(float(epoch)) == pytest.approx(lr, rel=1e-12, abs=1e-15)


def test_warm_up_ends_where_the_cosine_goes_on_and_the_cosine_at_its_end():
    schedule = build_schedule(load_cfg(None, [*COSINE, *WARMUP, "SOLVER.COSINE_END_LR", "1e-3"]))
    assert schedule(0) == pytest.approx(0.01)
    assert schedule(34 - 1e-9) == pytest.approx(schedule(34))
    assert schedule(196) == pytest.approx(1e-3)


def test_cosine_after_warm_up_starts_from_its_peak():
    opts = [*COSINE, *WARMUP, "SOLVER.COSINE_AFTER_WARMUP", "True"]
    schedule = build_schedule(load_cfg(None, opts))
    assert schedule(34) == pytest.approx(0.1)
    assert schedule((34 + 196) / 2) == pytest.approx(0.05)


def test_rates_scale_with_the_shards_where_asked():
    opts = [*COSINE, *WARMUP, "NUM_SHARDS", "4"]
    plain = build_schedule(load_cfg(None, opts))
    scaled = build_schedule(load_cfg(None, [*opts, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", "True"]))
    for epoch in (0, 10, 34, 100):
        assert scaled(epoch) == pytest.approx(4 * plain(epoch))


@pytest.mark.parametrize("octave_alpha", [0.0, 0.25])
def test_every_parameter_is_in_one_group_and_norm_layers_have_their_own_decay(octave_alpha):
    model = create_model("i3d_r18", width_per_group=8, octave_alpha=octave_alpha)
    cfg = load_cfg(None, ["SOLVER.WEIGHT_DECAY", "0.03", "BN.WEIGHT_DECAY", "0.0"])
    optimizer = build_optimizer(model, cfg)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(decay)
    for name, parameter in model.named_parameters():
        is_norm = "bn" in name.split(".")[-2]
        assert decay[id(parameter)] == (0.0 if is_norm else 0.03), name


def test_no_decay_of_one_dimensional_parameters_where_asked():
    cfg = load_cfg(None, ["SOLVER.WEIGHT_DECAY", "0.03", "SOLVER.ZERO_WD_1D_PARAM", "True"])
    layer = nn.Linear(3, 2)
    groups = build_optimizer(layer, cfg).param_groups
    decays = {g["params"][0].ndim: g["weight_decay"] for g in groups}
    assert decays == {1: 0.0, 2: 0.03}


def test_sgd_step_is_nesterov_momentum_written_out():
    opts = ["SOLVER.BASE_LR", "0.1", "SOLVER.MOMENTUM", "0.9", "SOLVER.NESTEROV", "True"]
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = build_optimizer(layer, load_cfg(None, [*opts, "SOLVER.WEIGHT_DECAY", "0.01"]))
    weight, velocity = 2.0, 0.0
    for lr, gradient in ((0.1, 3.0), (0.05, -1.0), (0.05, 0.5)):
        set_lr(optimizer, lr)
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        total = gradient + 0.01 * weight
        velocity = 0.9 * velocity + total
        weight -= lr * (total + 0.9 * velocity)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_adam_and_adamw(method, kind):
    cfg = load_cfg(None, ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.BETAS", "[0.8, 0.95]"])
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_a_restored_optimizer_keeps_its_own_settings(method, tmp_path):
    """Also beside a state of an older torch, which had fewer of them."""
    opts = ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.WEIGHT_DECAY"]
    layers = [nn.Linear(2, 2) for _ in range(2)]
    before, after = (
        build_optimizer(layer, load_cfg(None, [*opts, decay]))
        for layer, decay in zip(layers, ("0.1", "0.2"), strict=True)
    )
    layers[0](torch.ones(1, 2)).sum().backward()
    before.step()
    state = before.state_dict()
    for group in state["param_groups"]:
        for key in ("maximize", "foreach", "differentiable", "fused"):
            group.pop(key, None)
    settings = [{k: v for k, v in g.items() if k != "params"} for g in after.param_groups]
    load_state([OptimizerState(after)], Saved(tmp_path, {"optimizer_state": state}))
    assert [{k: v for k, v in g.items() if k != "params"} for g in after.param_groups] == settings
    assert settings[0]["weight_decay"] == 0.2
    old, new = (list(optimizer.state.values()) for optimizer in (before, after))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(old, new, strict=True) for key in a)
    twice = Saved(
        tmp_path, {"optimizer_state": {**state, "param_groups": state["param_groups"] * 2}}
    )
    with pytest.raises(CheckpointError, match="parameter group"):
        OptimizerState(after).check_state(twice)
