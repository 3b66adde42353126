"""Batches where /dev/shm is too small for them, as the 64 MB of a container are."""

import json
import shutil
import subprocess
import sys

import pytest

from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory

SCRIPT = """
import json, logging, sys
import torch
from octvideo.data.crash_safe_loader import VideoLoader, Watch
from octvideo.data.clips import collate_clips

class Videos(list):
    def path(self, index):
        return str(index)

class Clips:
    videos, watch = Videos([0] * 12), Watch(2)
    def __len__(self):
        return 12
    def __getitem__(self, index):
        video = torch.full((3, 1000, 1000), float(index))  # 12 MB
        return {"views": [video], "label": index, "index": index, "bad": []}

logging.basicConfig(stream=sys.stderr)
means = {}
for size in (2, None):
    options = {"batch_size": size, "collate_fn": collate_clips if size else None}
    loader = VideoLoader(Clips(), range(12), 2, prefetch_factor=2, **options)
    videos = (batch["video"] if size else batch["views"][0] for batch in loader)
    means[size or 0] = [float(video.mean()) for video in videos]
print(json.dumps(means))
"""


@pytest.mark.slow
def test_batches_come_through_a_pipe_where_shared_memory_is_full():
    """Of 16 MB, so that one batch of 24 MB has no room, and one clip of several has."""
    mount = "mount -t tmpfs -o size=16m tmpfs /dev/shm"
    unshare = shutil.which("unshare")
    private = [str(unshare), "--mount", "sh", "-c"]
    if unshare is None or subprocess.run([*private, mount], capture_output=True).returncode:
        pytest.skip("needs to mount a file system in a namespace of its own, which root may")
    run = subprocess.run(
        [*private, f'{mount} && exec "$0" -c "$1"', sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"2": [n + 0.5 for n in range(0, 12, 2)], "0": [*range(12)]}
    assert run.stderr.count("shared memory (/dev/shm, 16 MB) has no room") == 2
    assert "--shm-size" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "text",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...",
    ],
)
def test_the_advice_names_shared_memory(text):
    with pytest.raises(UserError, match="--shm-size"), advice_when_out_of_memory("training", "-"):
        raise RuntimeError(text)
