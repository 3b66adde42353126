import pytest
import torch

from octvideo import Protocol, create_model
from support import liven

NARROW = {"depth": 14, "width_per_group": 8, "crop_size": 64}


@pytest.fixture(scope="session")
def narrow() -> torch.nn.Module:
    """Oct-I3D of few channels for 4 frames of 64x64, with class names and lively scores."""
    torch.manual_seed(0)
    model = liven(create_model("i3d_r50", 5, 0.25, num_frames=4, **NARROW))
    model.protocol = Protocol(4, 2, 64, num_clips=2, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))
    model.class_names = ["down", "left", "right", "still", "up"]
    return model
