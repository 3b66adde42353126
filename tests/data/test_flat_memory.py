"""Memory of long lists and of long runs, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from octvideo.data.synthetic.videos import write_video
from support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc"),
]


def numbers_of(code: str, *args: object) -> list[float]:
    """What a program prints in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


LIST = """
import sys
from octvideo.data.sources.lists import read_list
from octvideo.data.loader import EpochSampler
from octvideo.utils.memory import process_memory
before = process_memory()["VmRSS"]
videos = read_list(sys.argv[1])
held = process_memory()["VmRSS"] - before
sampler = EpochSampler(len(videos), 8, rank=1, world_size=8)
assert videos.path(len(videos) - 1).endswith("649999.mp4") and sum(1 for _ in sampler) == 81248
print(len(videos), held, process_memory()["VmHWM"] - before)
"""


@pytest.mark.timeout(120)
def test_a_list_of_kinetics_700(tmp_path):
    """650,000 paths of 68 characters: as Python objects, 90 MB for the texts alone."""
    path = tmp_path / "train.csv"
    with open(path, "w") as file:
        for n in range(650_000):
            folder = f"/data/kinetics700/train/class {n % 700:03d}"
            file.write(f"{folder}/abcdefghijk_000010_{n:06d}.mp4 {n % 700}\n")
    count, held, most = numbers_of(LIST, path)
    assert count == 650_000
    assert held < 70  # 39 MB of text, 10 MB of numbers
    assert most < 160


BATCHES = """
import os, sys
from pathlib import Path
from octvideo.config import load_cfg
from octvideo.data import build_train_loader
def size(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss_Anon:")[1].split()[0]) / 1024  # MB, without what is shared
def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
def look():
    pids = ["self", *(w.pid for w in loader._loader._iterator._workers)]
    rows.append([*map(size, pids), *map(open_files, pids)])
loader = build_train_loader(load_cfg(None, sys.argv[1:]))
rows, done, epoch = [], 0, 0
while done < 2000:
    loader.sampler.set_epoch(epoch)
    for batch in loader:
        done += 1
        if done in (500, 2000):
            look()
    epoch += 1
print(*(b - a for a, b in zip(*rows)))
"""


@pytest.mark.timeout(400)
def test_workers_stay_as_large_as_they_are(tmp_path):
    """From batch 500 to batch 2,000: memory and open files of the main process and its workers."""
    rng = np.random.default_rng(0)
    for n in range(20):
        frames = rng.integers(0, 256, (12 + n, 36, 48 + n % 4 * 2, 3), dtype=np.uint8)
        write_video(tmp_path / f"{n}.mp4", frames, fps=30)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    names = [*(f"{n}.mp4" for n in range(20)), "broken.mp4", "missing.mp4"] * 10
    (tmp_path / "train.csv").write_text("".join(f"{name} 0\n" for name in names))
    opts = {
        "NUM_GPUS": 0,
        "MODEL.ARCH": "i3d",
        "DATA.PATH_TO_DATA_DIR": tmp_path,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_JITTER_SCALES": "[34,40]",
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA_LOADER.NUM_WORKERS": 2,
        "TRAIN.BATCH_SIZE": 2,
    }
    numbers = numbers_of(BATCHES, *(word for pair in opts.items() for word in pair))
    grown, opened = numbers[:3], numbers[3:]
    assert max(grown) < 8  # MB
    assert max(opened) <= 12  # those of batches on their way: three tensors each
