"""Mixup, CutMix, label smoothing and the losses, against sums that are written out."""

import math

import numpy as np
import pytest
import torch

from octvideo.config import load_cfg
from octvideo.engine.losses import build_loss
from octvideo.engine.mixup import (
    Mixup,
    build_mixup,
    mixing_generator,
    scores_and_labels,
    smooth_one_hot,
)

LABELS = torch.tensor([3, 0, 2, 3, 1])
OTHERS = LABELS.flip(0)


def videos(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 3, 4, 12, 16, generator=torch.Generator().manual_seed(seed))


def mixed(mixup: Mixup, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return mixup(videos(), LABELS, np.random.default_rng(seed))


def share_of(targets: torch.Tensor, smoothing: float = 0.0) -> float:
    """The own clip's share in the targets, from the first sample (label 3, its partner 1)."""
    own, other = targets[0, 3].item(), targets[0, 1].item()
    assert own + other == pytest.approx(1 - smoothing + 2 * smoothing / 4, abs=1e-6)
    return (own - smoothing / 4) / (1 - smoothing)


def test_mixup_is_a_weighted_mean_with_targets_to_match():
    mixup = Mixup(4, alpha=0.8, cutmix_alpha=0.0, label_smoothing=0.0)
    shares = []
    for seed in range(400):
        video, targets = mixed(mixup, seed)
        share = share_of(targets)
        shares.append(share)
        if seed < 20:
            expected = share * videos() + (1 - share) * videos().flip(0)
            torch.testing.assert_close(video, expected, rtol=0, atol=1e-5)
            for i in range(5):
                row = [0.0] * 4
                row[LABELS[i]] += share
                row[OTHERS[i]] += 1 - share
                torch.testing.assert_close(targets[i], torch.tensor(row), rtol=0, atol=1e-6)
    # beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), rel=0.15)


def test_cutmix_pastes_one_box_and_counts_its_pixels():
    mixup = Mixup(4, alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0)
    corners = set()
    for seed in range(100):
        video, targets = mixed(mixup, seed)
        own, other = videos(), videos().flip(0)
        pasted = (video == other) & (video != own)
        assert torch.equal(video[~pasted], own[~pasted])
        box = pasted[0, 0, 0]  # of every sample but the middle one, which is its own partner
        for sample in (0, 1, 3, 4):
            assert (pasted[sample] == box).all()
        area = int(box.sum())
        assert share_of(targets) == pytest.approx(1 - area / (12 * 16), abs=1e-6)
        if area:
            rows, columns = (box.any(d).nonzero()[:, 0].tolist() for d in (1, 0))
            height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
            assert area == height * width
            corners.add((rows[0], columns[0]))
    assert len(corners) > 30


def test_a_box_in_the_middle_has_the_share_that_was_drawn():
    class Fixed:
        """A share of 3/4, around the middle."""

        def random(self) -> float:
            return 0.0

        def beta(self, a: float, b: float) -> float:
            return 0.75

        def integers(self, high: int) -> int:
            return high // 2

    video, targets = Mixup(4, label_smoothing=0.0)(videos(), LABELS, Fixed())
    changed = (video != videos())[0, 0, 0]
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:9, 4:12] = True  # half of each side
    assert torch.equal(changed, expected)
    assert share_of(targets) == pytest.approx(0.75)


def test_probabilities():
    def kinds(mixup: Mixup) -> list[str]:
        found = []
        for seed in range(600):
            video, _ = mixed(mixup, seed)
            same = (video[0] == videos()[0]).float().mean()
            found.append("none" if same == 1 else "mixup" if same == 0 else "cutmix")
        return found

    both = kinds(Mixup(4, 1.0, 1.0, probability=0.6, switch_probability=0.25))
    assert both.count("mixup") / 600 == pytest.approx(0.6 * 0.75, abs=0.06)
    # a few boxes have no pixel
    assert both.count("cutmix") / 600 == pytest.approx(0.6 * 0.25, abs=0.05)
    assert kinds(Mixup(4, 0.8, 0.0)).count("mixup") == 600
    assert "mixup" not in kinds(Mixup(4, 0.0, 1.0))
    assert set(kinds(Mixup(4, 0.0, 0.0))) == {"none"}


def test_smoothing_alone():
    video, targets = mixed(Mixup(4, probability=0.0, label_smoothing=0.1), 0)
    assert torch.equal(video, videos())
    expected = torch.full((5, 4), 0.025)
    expected[range(5), LABELS] = 0.925
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(targets, smooth_one_hot(LABELS, 4, 0.1))
    assert share_of(mixed(Mixup(4, label_smoothing=0.1), 1)[1], smoothing=0.1) < 1


def test_each_step_has_its_own_numbers_and_always_the_same():
    keys = [(0, 1, 2, 0), (0, 1, 3, 0), (0, 2, 2, 0), (1, 1, 2, 0), (0, 1, 2, 1)]
    first = [mixing_generator(*key).random(3).tolist() for key in keys]
    again = [mixing_generator(*key).random(3).tolist() for key in keys]
    assert first == again
    assert len({tuple(numbers) for numbers in first}) == len(keys)
    # apart from the clips, which are drawn from seed, epoch and index
    clips = np.random.default_rng([0, 1, 2]).random(3).tolist()
    assert clips not in first


def test_configuration_reaches_the_mixing():
    options = {
        "MIXUP.ENABLE": "True",
        "MIXUP.ALPHA": "0.3",
        "MIXUP.CUTMIX_ALPHA": "0.6",
        "MIXUP.PROB": "0.9",
        "MIXUP.SWITCH_PROB": "0.4",
        "MIXUP.LABEL_SMOOTH_VALUE": "0.2",
        "MODEL.LOSS_FUNC": "soft_cross_entropy",
        "MODEL.NUM_CLASSES": "7",
    }
    cfg = load_cfg(None, [word for pair in options.items() for word in pair])
    assert build_mixup(cfg) == Mixup(7, 0.3, 0.6, 0.9, 0.4, 0.2)
    assert build_mixup(load_cfg()) is None


# -------------------------------------------------------------------------------------- losses


def logits() -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(9)) * 3


def test_soft_cross_entropy_written_out():
    targets = torch.rand(5, 4, generator=torch.Generator().manual_seed(2))
    targets /= targets.sum(1, keepdim=True)
    total = 0.0
    for row, target in zip(logits().tolist(), targets.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(v) for v in row))
        total -= sum(t * (v - log_sum) for v, t in zip(row, target, strict=True))
    loss = build_loss("soft_cross_entropy")(logits(), targets)
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


def test_labels_are_targets_too():
    one_hot = torch.nn.functional.one_hot(LABELS, 4).float()
    hard = build_loss("cross_entropy")(logits(), LABELS)
    torch.testing.assert_close(build_loss("soft_cross_entropy")(logits(), one_hot), hard)
    torch.testing.assert_close(build_loss("soft_cross_entropy")(logits(), LABELS), hard)
    bce = build_loss("bce_logit")
    torch.testing.assert_close(bce(logits(), LABELS), bce(logits(), one_hot))


def test_bce_written_out():
    targets = torch.rand(5, 4, generator=torch.Generator().manual_seed(2))
    pairs = zip(logits().flatten().tolist(), targets.flatten().tolist(), strict=True)
    terms = [math.log(1 + math.exp(-v)) + (1 - t) * v for v, t in pairs]
    loss = build_loss("bce_logit")(logits(), targets)
    assert loss.item() == pytest.approx(sum(terms) / 20, rel=1e-5)


# --------------------------------------------------------------------------------------- errors


def test_either_class_of_a_mixture_is_a_hit():
    targets = torch.tensor([[0.6, 0.4, 0.0, 0.0]] * 4)
    predictions = torch.tensor(
        [
            [5.0, 0.0, 0.0, 0.0],  # the first
            [0.0, 5.0, 0.0, 0.0],  # the second
            [2.0, 2.0, 2.5, 0.0],  # both together beat the third
            [1.0, 1.0, 4.0, 0.0],  # they do not
        ]
    )
    scores, labels = scores_and_labels(predictions, targets)
    assert labels.tolist() == [0, 0, 0, 0]
    assert scores.argmax(1).tolist() == [0, 0, 0, 2]
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    assert (scores[:, 1] == 0).all()


def test_labels_are_left_alone():
    scores, labels = scores_and_labels(logits(), LABELS)
    assert torch.equal(scores, logits())
    assert labels is LABELS
