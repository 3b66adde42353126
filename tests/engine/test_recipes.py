"""Augmentation, mixing, the average of the weights and LARS in whole runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from octvideo.config import load_cfg
from octvideo.engine import Preempted, load_checkpoint, run_test, run_train
from octvideo.engine.averaging import update_bn_statistics
from octvideo.engine.checkpoint import list_checkpoints
from octvideo.engine.mixup import Mixup, mixing_generator
from octvideo.engine.start import start_run
from octvideo.engine.test import find_checkpoint
from octvideo.engine.train import build_trainer
from octvideo.engine.trainer import Trainer
from octvideo.models import build_model
from support import ROOT
from support.stopping import StopAfter

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"
EVERYTHING = {
    "AUG.ENABLE": True,
    "AUG.NUM_SAMPLE": 2,
    "AUG.AA_TYPE": "rand-m7-n2-mstd0.5-inc1",
    "AUG.RE_PROB": 0.5,
    "MIXUP.ENABLE": True,
    "MODEL.LOSS_FUNC": "soft_cross_entropy",
    "EMA.ENABLE": True,
    "EMA.DECAY": 0.7,
    "SOLVER.LARS_ON": True,
    "SOLVER.CLIP_GRAD_L2NORM": 5.0,
}


def with_opts(opts: list[str], **more: object):
    """Keys of ``more`` are written with __ for the dot."""
    extra = {key.replace("__", "."): value for key, value in more.items()}
    return load_cfg(CFG, [*opts, *(str(word) for pair in extra.items() for word in pair)])


@pytest.fixture
def all_opts(tiny_opts) -> list[str]:
    return [*tiny_opts, *(str(word) for pair in EVERYTHING.items() for word in pair)]


def newest(cfg) -> dict:
    return load_checkpoint(list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1])


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights_and_average(all_opts, tmp_path):
    """Stopped in a step, in precise batch norm, in validation, in the second epoch."""
    straight = with_opts(all_opts, OUTPUT_DIR=tmp_path / "straight")
    run_train(straight)
    expected = newest(straight)
    for checks in (2, 5, 7, 9):
        cfg = with_opts(all_opts, OUTPUT_DIR=tmp_path / f"stopped_{checks}")
        trainer = build_trainer(cfg, start_run(cfg))
        trainer.start()
        with pytest.raises(Preempted):
            trainer.run(StopAfter(checks))
        torch.manual_seed(99)  # what the checkpoint does not bring would show
        np.random.seed(99)
        run_train(cfg)
        content = newest(cfg)
        for key in ("model_state", "ema_state"):
            assert_same(content[key], expected[key])
        momenta = (c["optimizer_state"]["state"] for c in (content, expected))
        for own, other in zip(*(m.values() for m in momenta), strict=True):
            assert torch.equal(own["momentum_buffer"], other["momentum_buffer"])


def test_a_step_sees_mixed_clips_and_targets(tiny_opts):
    cfg = with_opts(tiny_opts, MIXUP__ENABLE=True, MODEL__LOSS_FUNC="soft_cross_entropy")
    trainer = build_trainer(cfg, torch.device("cpu"))
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    trainer.step.loss = lambda logits, targets: seen.append(targets) or logits.sum()
    batch = next(iter(trainer.train_loader))
    trainer.progress.epoch, trainer.progress.step = 1, 2
    trainer.train_step(batch)
    mixup = Mixup(cfg.MODEL.NUM_CLASSES, 0.8, 1.0, 1.0, 0.5, 0.1)
    video, labels = trainer.step.transfer(batch)
    expected = mixup(video, labels, mixing_generator(cfg.RNG_SEED, 1, 2, 0))
    assert torch.equal(seen[0], expected[0])
    assert torch.equal(seen[1], expected[1])


def test_both_pathways_see_the_same_mixture(tiny_opts):
    two = {
        "RESNET.NUM_BLOCK_TEMP_KERNEL": [[1, 1]] * 4,
        "RESNET.SPATIAL_STRIDES": [[1, 1], [2, 2], [2, 2], [2, 2]],
        "RESNET.SPATIAL_DILATIONS": [[1, 1]] * 4,
        "NONLOCAL.LOCATION": [[[], []]] * 4,
        "NONLOCAL.GROUP": [[1, 1]] * 4,
        "DATA.INPUT_CHANNEL_NUM": [3, 3],
        "DATA.NUM_FRAMES": 8,
        "MODEL.ARCH": "slowfast",
        "MODEL.MODEL_NAME": "SlowFast",
        "SLOWFAST.ALPHA": 4,
        "MIXUP.ENABLE": True,
        "MODEL.LOSS_FUNC": "soft_cross_entropy",
    }
    cfg = load_cfg(CFG, [*tiny_opts, *(str(word) for pair in two.items() for word in pair)])
    trainer = build_trainer(cfg, torch.device("cpu"))
    stems = []
    for stem in ("pathway0_stem", "pathway1_stem"):
        getattr(trainer.model.s1, stem).register_forward_pre_hook(
            lambda _, inputs: stems.append(inputs[0].clone())
        )
    batch = next(iter(trainer.train_loader))
    trainer.train_step(batch)
    slow, fast = stems
    plain, labels = trainer.step.transfer(batch)
    assert not torch.equal(fast, plain)
    mixup = Mixup(cfg.MODEL.NUM_CLASSES)
    mixed, _ = mixup(plain, labels, mixing_generator(cfg.RNG_SEED, 0, 0, 0))
    assert torch.equal(fast, mixed)
    assert torch.equal(slow, mixed[:, :, [0, 7]])


def test_parts_of_a_mixed_batch_add_up_to_its_gradient(tiny_opts):
    def weights_after_a_step(parts: int) -> torch.Tensor:
        cfg = with_opts(
            tiny_opts,
            MIXUP__ENABLE=True,
            MODEL__LOSS_FUNC="soft_cross_entropy",
            TRAIN__ACCUMULATE_STEPS=parts,
            MODEL__HEAD_ACT="none",
        )
        torch.manual_seed(0)
        trainer = build_trainer(cfg, torch.device("cpu"))
        trainer.model.eval()  # without batch norm in the way
        trainer.train_step(next(iter(trainer.train_loader)))
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    torch.testing.assert_close(weights_after_a_step(2), weights_after_a_step(1))


@pytest.mark.slow
def test_the_average_is_validated_saved_and_tested(tiny_opts, monkeypatch):
    cfg = with_opts(tiny_opts, EMA__ENABLE=True, EMA__DECAY=0.5)
    used = []
    validate = Trainer._validate

    def watched(trainer, stop):
        hook = trainer.average.model.register_forward_hook(lambda *_: used.append("average"))
        other = trainer.model.register_forward_hook(lambda *_: used.append("weights"))
        validate(trainer, stop)
        hook.remove()
        other.remove()

    monkeypatch.setattr(Trainer, "_validate", watched)
    run_train(cfg)
    assert set(used) == {"average"}
    content = newest(cfg)
    assert content["ema_state"].keys() == content["model_state"].keys()
    path = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
    named = with_opts(tiny_opts, EMA__ENABLE=True, TEST__CHECKPOINT_FILE_PATH=path)
    for config in (cfg, named):
        assert_same(find_checkpoint(config).state, content["ema_state"])
    plain = with_opts(tiny_opts, TEST__CHECKPOINT_FILE_PATH=path)
    for config in (with_opts(tiny_opts), plain):
        assert_same(find_checkpoint(config).state, content["model_state"])
    assert run_test(cfg)["num_videos"] == 8


def test_precise_batch_norm_is_of_the_average_itself(tiny_opts):
    cfg = with_opts(tiny_opts, EMA__ENABLE=True, EMA__DECAY=0.5, SOLVER__MAX_EPOCH=1)
    run_train(cfg)
    content = newest(cfg)
    trainer = build_trainer(cfg, torch.device("cpu"))
    trainer.train_loader.sampler.set_epoch(0)
    batches = [trainer.step.transfer(batch)[0] for batch in trainer.train_loader][:2]
    for key in ("model_state", "ema_state"):
        model = build_model(cfg)
        model.load_state_dict(content[key])
        update_bn_statistics(model, batches)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, content[key][name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_without_an_average_can_begin_one(tiny_opts, tmp_path):
    run_train(with_opts(tiny_opts, SOLVER__MAX_EPOCH=1))
    cfg = with_opts(tiny_opts, EMA__ENABLE=True)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    assert trainer.progress.epoch == 1
    assert_same(trainer.average.model.state_dict(), trainer.model.state_dict())
    assert "no average of the weights" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    path = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
    new = with_opts(
        tiny_opts, EMA__ENABLE=True, OUTPUT_DIR=tmp_path / "b", TRAIN__CHECKPOINT_FILE_PATH=path
    )
    trainer = build_trainer(new, start_run(new))
    trainer.start()
    assert_same(trainer.average.model.state_dict(), load_checkpoint(path)["model_state"])


@pytest.mark.slow
def test_all_of_it_together_still_learns(all_opts):
    """A set that is learnt by heart, with mild settings."""
    cfg = with_opts(
        all_opts,
        SOLVER__MAX_EPOCH=10,
        SOLVER__LARS_ON=False,
        MODEL__DROPOUT_RATE=0,
        AUG__AA_TYPE="rand-m3-n1-inc1",
        MIXUP__PROB=0.2,
        TRAIN__EVAL_PERIOD=0,
        TRAIN__CHECKPOINT_PERIOD=10,
    )
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    losses = []
    tell = trainer.log.log_epoch
    trainer.log.log_epoch = lambda stats, workers: (
        losses.append(stats["loss"]),
        tell(stats, workers),
    )
    trainer.run(StopAfter(10**9))
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
