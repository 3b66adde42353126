"""2D networks in time: a video that stands still is seen as one picture."""

import pytest
import torch
from resnet2d import random_resnet2d
from torch import nn
from zoo_files import caffe2_blobs, python2_pickle, tiny

from octvideo.weights import CheckpointError, Weights, inflate_kernels, load_into, read_weights

ENTRIES = 320


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.fixture(scope="module")
def network():
    return random_resnet2d(seed=4)


@pytest.fixture
def file(network, tmp_path):
    """As torchvision and timm write them: the bare parameters; older files have no counters."""
    state = network.state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "r50.pth")
    return tmp_path / "r50.pth"


def still_video(size: int, frames: int) -> torch.Tensor:
    picture = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return picture.unsqueeze(2).expand(-1, -1, frames, -1, -1)


@pytest.mark.parametrize("size", [32, 64])
def test_c2d_on_a_still_video_is_the_2d_network(network, file, size):
    video = still_video(size, 4)
    model = tiny("c2d", seed=9, head_activation="none", crop_size=size)
    report = load_into(model, read_weights(file), inflate=True)
    assert (report.kind, report.loaded, report.left_out) == ("torchvision", ENTRIES, ())
    with torch.no_grad():
        assert close(model(video), network(video[:, :, 0]))


def test_i3d_away_from_the_ends_of_the_video(network, file):
    """Its temporal kernels reach nine of the pooled frames from each end (zero padding)."""
    video, maps = still_video(64, 40), []
    model = tiny("i3d", seed=9, crop_size=64, num_frames=40)
    load_into(model, read_weights(file), inflate=True)
    model.s5.register_forward_hook(lambda _module, _inputs, outputs: maps.append(outputs[0]))
    with torch.no_grad():
        model(video)
        expected = network.features(video[:, :, 0])
    (features,) = maps
    assert features.shape[2] == 20
    for frame in (9, 10):
        assert close(features[:, :, frame], expected)
    assert not close(features[:, :, 0], expected)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_kernels(frames):
    kernel = torch.randn(2, 3, 7, 7)
    state = {"a": kernel, "b": kernel, "c": torch.ones(4)}
    shapes = {"a": torch.Size([2, 3, frames, 7, 7]), "c": torch.Size([4])}
    made = inflate_kernels(state, shapes)
    assert made["a"].shape == shapes["a"]
    torch.testing.assert_close(made["a"].sum(2), kernel)
    for t in range(frames):
        assert torch.equal(made["a"][:, :, t], kernel / frames)
    assert made["b"] is kernel
    assert made["c"] is state["c"]


def flat_state(network) -> dict[str, torch.Tensor]:
    """The same network as PySlowFast's own 2D file: our names, kernels of two dimensions."""
    c2d = tiny("c2d", seed=2)
    weights = Weights("x", "torchvision", read_state(network))
    load_into(c2d, weights, inflate=True)
    return {k: v.squeeze(2) if v.ndim == 5 else v for k, v in c2d.state_dict().items()}


def read_state(network) -> dict[str, torch.Tensor]:
    from octvideo.weights.names.torchvision import torchvision_names

    state = network.state_dict()
    ours = torchvision_names(state)
    return {ours[key]: value for key, value in state.items()}


@pytest.mark.parametrize("options", [{}, {"octave_alpha": 0.5}], ids=["vanilla", "octave"])
@pytest.mark.parametrize("form", ["torchvision", "pyslowfast", "caffe2"])
def test_every_2d_file_gives_the_same_model(shared, network, file, tmp_path, form, options):
    model, expected = tiny(seed=5, **options), tiny(seed=6)
    load_into(expected, read_weights(file), inflate=True)
    path = file
    if form == "pyslowfast":
        path = tmp_path / "R50_IN1K.pyth"
        torch.save({"model_state": flat_state(network)}, path)
    elif form == "caffe2":
        path = tmp_path / "r50.pkl"
        path.write_bytes(python2_pickle(caffe2_blobs(flat_state(network), "I3D_8x8_R50")))
    weights = read_weights(path)
    assert weights.kind == form
    load_into(model, weights, inflate=True)
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_classes_of_imagenet(file, caplog):
    model = tiny(num_classes=7)
    with caplog.at_level("WARNING", logger="octvideo"):
        report = load_into(model, read_weights(file), finetune=True, inflate=True)
    assert len(report.left_out) == 2
    assert "5 classes, the model has 7" in caplog.text


@pytest.mark.parametrize("finetune", [False, True])
def test_a_2d_file_that_is_not_to_be_inflated(file, finetune):
    with pytest.raises(CheckpointError, match=r"2D network: set TRAIN\.CHECKPOINT_INFLATE True"):
        load_into(tiny(), read_weights(file), finetune=finetune)


def test_another_2d_network(tmp_path):
    path = tmp_path / "wide.pth"
    torch.save(random_resnet2d(width=8).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"wide\.pth does not fit the model:"):
        load_into(tiny(), read_weights(path), finetune=True, inflate=True)
    deep = random_resnet2d()
    deep.layer1.append(nn.Conv2d(1, 1, 1))
    torch.save(deep.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"layer1\.3\.weight: unknown to the model"):
        load_into(tiny(), read_weights(path), finetune=True, inflate=True)


def test_a_video_file_is_not_changed_by_inflation(tmp_path):
    source, model = tiny(seed=1), tiny(seed=2)
    weights = Weights(tmp_path / "x", "pyslowfast", source.state_dict())
    load_into(model, weights, inflate=True)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
