"""One model in many hands: several threads, a training loop, edits between two calls."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import octvideo
from octvideo.api.inference import for_inference
from octvideo.data.protocol import CentreCrop, Protocol
from studies.frequency import layer_spectra
from support import liven

QUICK = Protocol(num_frames=4, sampling_rate=8, crop_size=32, num_clips=1)
VIDEO_OPTIONS = {"depth": 14, "width_per_group": 8, "num_frames": 4, "crop_size": 32}


def video_network() -> nn.Module:
    torch.manual_seed(1)
    return liven(octvideo.create_model("i3d_r50", 12, 0.25, **VIDEO_OPTIONS))


def hooked_network() -> nn.Module:
    model = video_network()
    model.s5.register_forward_hook(lambda *_: None)  # so that it is used as it is
    return model


def image_network() -> nn.Module:
    torch.manual_seed(1)
    return liven(octvideo.create_model("resnet26_v2", 12, 0.25, width=8))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("make", [video_network, hooked_network, image_network])
def test_threads_get_what_one_thread_gets(small, make, mode):
    model = getattr(make(), mode)()
    settings = QUICK
    if make is image_network:
        settings = Protocol(1, 1, 32, num_clips=3, num_crops=1, centre_crop=CentreCrop(32))
    calls = [
        partial(function, video, model, settings=settings, **options)
        for video in small.videos[:2]
        for function, options in (
            (octvideo.extract_features, {"per_view": True}),
            (octvideo.predict, {"topk": 12}),
            (octvideo.extract_features, {}),
        )
    ]
    alone = [call() for call in calls]
    assert not np.array_equal(alone[0], alone[3])  # two videos
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda call: call(), calls * 2))
    for wanted, got in zip(alone * 2, together, strict=True):
        if isinstance(wanted, list):
            assert [label for label, _ in got] == [label for label, _ in wanted]
            wanted, got = ([score for _, score in result] for result in (wanted, got))
        np.testing.assert_array_equal(got, wanted)
    assert all(module.training == (mode == "train") for module in model.modules())


def test_spectra_leave_the_model_alone():
    model = image_network().train()
    spectra = layer_spectra(model, "s2", [torch.randn(1, 3, 32, 32)])
    assert spectra["high"].shape == (8, 8)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def reorder_classes(model: nn.Module) -> None:
    order = torch.arange(12).roll(1)
    model.head.projection.weight.data = model.head.projection.weight.data[order]
    model.head.projection.bias.data = model.head.projection.bias.data[order]


def reorder_in_place(model: nn.Module) -> None:
    model.head.projection.weight.data.copy_(model.head.projection.weight.data.flip(0).clone())


def edit_through_numpy(model: nn.Module) -> None:
    kernel = model.get_submodule("s4.pathway0_res0.branch2.b").weight.detach().numpy()
    kernel[[0, 1]] = kernel[[1, 0]]


def load_other_weights(model: nn.Module) -> None:
    state = {k: v.flip(0) if v.ndim else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)


def move_there_and_back(model: nn.Module) -> None:
    """Old memory is free to be used again, at an address that was seen before."""
    model.head.projection.weight.data = model.head.projection.weight.data.flip(0)
    model.double().float()


def swap_statistics(model: nn.Module) -> None:
    norm = model.get_submodule("s3.pathway0_res0.branch2.b_bn")
    norm.running_mean.copy_(norm.running_mean.flip(0).clone())


def change_a_setting(model: nn.Module) -> None:
    model.head.activation = torch.sigmoid


def edit_a_list(model: nn.Module) -> None:
    model.head.windows[0] = (1, 1, 1)


def swap_a_layer(model: nn.Module) -> None:
    model.head.projection = nn.Linear(model.head.projection.in_features, 12)


@pytest.mark.parametrize(
    "edit",
    [
        reorder_classes,
        reorder_in_place,
        edit_through_numpy,
        load_other_weights,
        move_there_and_back,
        swap_statistics,
        change_a_setting,
        edit_a_list,
        swap_a_layer,
    ],
)
def test_a_model_that_was_edited_answers_as_a_new_one(small, edit):
    settings = Protocol(num_frames=4, sampling_rate=8, crop_size=64, num_clips=1)
    model, video = video_network(), small.videos[0]

    def answers(network: nn.Module) -> tuple[dict[str, float], np.ndarray]:
        scores = dict(octvideo.predict(video, network, settings=settings, topk=12))
        return scores, octvideo.extract_features(video, network, settings=settings)

    before = answers(model)
    edit(model)
    scores, features = answers(model)
    new_scores, new_features = answers(copy.deepcopy(model))
    assert scores == new_scores
    np.testing.assert_array_equal(features, new_features)
    assert scores != before[0]


def test_a_model_is_optimised_once_and_no_copy_is_optimised_again():
    model = video_network()
    network = for_inference(model, "fp32")
    assert for_inference(model, "fp32") is network
    assert for_inference(model, "bf16") is not network
    assert for_inference(network, "fp32") is network
    with torch.inference_mode():
        unwatched = video_network().eval()
    assert for_inference(unwatched, "fp32") is unwatched  # its tensors count no versions


class Foreign(nn.Module):
    """A network with timm's two methods, and with what is hard to compare or to copy twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)
        self.table = torch.eye(3)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.mean((2, 3, 4))
        return pooled if pre_logits else (pooled @ self.table).softmax(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_network_of_another_project(small):
    model, video = Foreign(), small.videos[0]
    features = octvideo.extract_features(video, model, settings=QUICK)
    assert features.shape == (3,)
    assert model.training
    torch.testing.assert_close(model.norm.running_mean, torch.zeros(3))  # nothing was learned
    scores = [score for _, score in octvideo.predict(video, model, settings=QUICK, topk=3)]
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_a_model_is_never_told_its_mode(small):
    model = hooked_network().eval()
    calls = []
    model.train = lambda mode=True: calls.append(mode)
    octvideo.extract_features(small.videos[0], model, settings=QUICK, fast=True)
    octvideo.predict(small.videos[0], model, settings=QUICK, fast=True)
    assert calls == []
