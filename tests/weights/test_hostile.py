"""Files made to run code or to exhaust memory: refused, within bounds, by every reader there is."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from octvideo import create_model
from octvideo.config import ConfigError, load_cfg
from octvideo.data.synthetic.videos import write_video
from support import ROOT

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory"),
]

# Reads one file within 1 GB more than the program has; prints OK where it is refused by a message.
READ = """
import resource, sys
from pathlib import Path
import av, numpy, torch, safetensors.torch
from octvideo.api.features import _join
from octvideo.api.create import create_model
from octvideo.api.loading import load_trained
from octvideo.config import load_cfg
from octvideo.data.labels import class_names_beside
from octvideo.data import VideoError, VideoReader
from octvideo.utils.errors import UserError
from octvideo.utils.memory import process_memory
from octvideo.weights import read_weights
def read_video(path):
    with VideoReader(path) as reader:
        reader.get_frames(range(min(4, reader.num_frames)))
readers = {"yaml": load_cfg, "npz": lambda path: _join([(path, Path(path))], Path(path + ".out")),
           "json": lambda path: class_names_beside(Path(path).parent, 3), "mp4": read_video,
           "avi": read_video, "own": lambda path: load_trained(None, path),
           "named": lambda path: create_model("i3d_r50", pretrained=path)}
size = int(process_memory()["VmSize"] * 2**20) + 2**30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
for path in sys.argv[1:]:
    try:
        readers.get(path.rpartition(".")[2], read_weights)(path)
    except (UserError, VideoError) as error:
        assert len(str(error)) < 2000, "a message without end"
        print("refused", path)
    else:
        print("taken", path)
"""


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def torch_file(content: object, **kwargs: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def linked(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def attacks(marker: Path) -> dict[str, bytes]:
    """Files that run a command where they are unpickled, or write outside of their folder."""
    evil = {"model_state": Attack(marker), "x": torch.ones(2)}
    array = np.array([Attack(marker)], dtype=object)
    npz = io.BytesIO()
    np.savez(npz, features=array, path="x")
    outside = str(marker.with_name("escaped"))
    return {
        "zip.pyth": torch_file(evil),
        "legacy.pyth": torch_file(evil, _use_new_zipfile_serialization=False),
        **{f"raw {p}.pkl": pickle.dumps({"blobs": evil["model_state"]}, p) for p in range(6)},
        "array.pkl": pickle.dumps({"blobs": {"conv1_w": array}}, 2),
        "objects.npz": npz.getvalue(),
        "apply.yaml": f"!!python/object/apply:os.system ['touch {marker}']".encode(),
        "new.yaml": f"TRAIN: !!python/object/new:os.system ['touch {marker}']".encode(),
        "up.tar": tar_of((tarfile.TarInfo("../../escaped"), b"x" * 99)),
        "absolute.tar": tar_of((tarfile.TarInfo(outside), b"x" * 99)),
        "symlink.tar": tar_of(
            linked("net-0000.params", "/etc/passwd", tarfile.SYMTYPE),
            (tarfile.TarInfo("net-0000.params/x"), b"x" * 99),
        ),
        "hardlink.tar": tar_of(linked("net-0000.params", "/etc/passwd", tarfile.LNKTYPE)),
        "device.tar": tar_of(linked("net-0000.params", "", tarfile.CHRTYPE)),
    }


def bombs(folder: Path) -> dict[str, bytes]:
    """Files that claim far more than they have."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 * 2**20))
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}
    ).encode()
    legacy = torch_file({"a": torch.ones(77)}, _use_new_zipfile_serialization=False)
    count = pickle.dumps(77, 2)[2:-1]
    npy = np.lib.format.magic(1, 0)
    text = (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
    )
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("features.npy", npy + struct.pack("<H", len(text)) + text)
        archive.writestr("path.npy", npy + struct.pack("<H", len(text)) + text)
    laughs = b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
    )
    frames = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    write_video(folder / "good.mp4", frames, fps=24)
    good = (folder / "good.mp4").read_bytes()
    return {
        "zipped.pyth": zipped.getvalue(),
        "header.safetensors": struct.pack("<Q", 2**62) + b'{"a":' + bytes(99),
        "content.safetensors": struct.pack("<Q", len(header)) + header + bytes(64),
        "storage.pyth": legacy.replace(count, b"\x8a\x06" + (2**40).to_bytes(6, "little")),
        "shape.npz": npz.getvalue(),
        "laughs.yaml": laughs,
        "key.yaml": b"SOLVER:\n  STEPS: *a11\n".join([laughs, b""]),
        "deep.yaml": b"[" * 20_000,
        "deep.json": b"[" * 200_000,
        "boxes.mp4": good[:4] + b"ftyp" + (2**32 - 1).to_bytes(4, "big") + good[12:20] + bytes(500),
        "samples.mp4": _more_samples(good),
        "picture.avi": _avi(100_000, 100_000),
    }


def giants() -> dict[str, bytes]:
    """Small files that, taken at their word, become large in use."""
    content = torch.ones(2_000_000)
    wide = {"s1.pathway0_stem.conv.weight": torch.ones(64, 3, 1, 7, 7)}
    network = "MODEL: {ARCH: i3d, MODEL_NAME: ResNet}\nRESNET: {DEPTH: 50, %s}\n"
    small = create_model("i3d_r50", 5, width_per_group=4, num_frames=4).state_dict()
    views = (
        network % "WIDTH_PER_GROUP: 4" + "DATA: {NUM_FRAMES: 4}\nTEST: {NUM_ENSEMBLE_VIEWS: %d}\n"
    )
    views = views.replace("MODEL: {", "MODEL: {NUM_CLASSES: 5, ")
    files = {
        "views.pyth": {str(n): content[n:-1000] for n in range(1000)},
        "wide.own": {"model_state": wide, "cfg": network % "WIDTH_PER_GROUP: 400000"},
        "wide.named": {"model_state": wide, "cfg": network % "WIDTH_PER_GROUP: 400000"},
        "views.own": {"model_state": small, "cfg": views % 10**9},
        "views.named": {"model_state": small, "cfg": views % 10**9},
    }
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    made = {name: torch_file(file) for name, file in files.items()}
    array = np.ones(500_000, np.float32)
    made["shared.pkl"] = pickle.dumps(
        {"blobs": {"conv1_w": array, **dict.fromkeys(range(1000), array)}}, 2
    )
    return {**made, "digits.tar": tar_of((header, b"9" * 400_000))}


def _more_samples(good: bytes) -> bytes:
    """Its table of sizes claims four thousand million frames."""
    at = good.index(b"stsz") + 12
    return good[:at] + (2**32 - 1).to_bytes(4, "big") + good[at + 4 :]


def _avi(width: int, height: int) -> bytes:
    """A raw video of one frame whose header claims this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    size = min(width * height * 3, 2**32 - 1)
    main = struct.pack("<10I16x", 40_000, 0, 0, 16, 1, 0, 1, size, width, height)
    stream = struct.pack("<4s4sIIIIIIIIII8x", b"vids", b"DIB ", 0, 0, 0, 1, 25, 0, 1, size, 0, 0)
    form = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", form))
    lists = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    movie = chunk(b"LIST", b"movi" + chunk(b"00db", bytes(3000)))
    return chunk(b"RIFF", b"AVI " + lists + movie)


def read_all(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """What became of each file: one process reads them all."""
    for name, content in files.items():
        if name.endswith(".json"):  # beside the lists of a data set
            (folder / name).mkdir()
            name = f"{name}/class_names.json"
        (folder / name).write_bytes(content)
    names = [n + "/class_names.json" if n.endswith(".json") else n for n in files]
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(folder / name) for name in names)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return {str(Path(path).relative_to(folder)): verdict for verdict, path in rows}


def test_nothing_is_run_or_written(tmp_path):
    pytest.importorskip("safetensors", reason="files of all formats are read")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    marker = tmp_path / "executed"
    files = attacks(marker)
    pickle.loads(files["raw 2.pkl"])
    assert marker.exists()  # the attack is one: the ordinary unpickler falls for it
    marker.unlink()
    verdicts = read_all(folder, files)
    assert verdicts == dict.fromkeys(files, "refused")
    assert not marker.exists()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(files)


def test_no_memory_is_taken_on_the_word_of_a_file(tmp_path):
    pytest.importorskip("safetensors", reason="files of all formats are read")
    (tmp_path / "set").mkdir()
    files = bombs(tmp_path)
    verdicts = read_all(tmp_path / "set", files)
    assert set(verdicts.values()) == {"refused"}
    assert len(verdicts) == len(files)


@pytest.mark.timeout(60)
def test_small_files_stay_small_in_use(tmp_path):
    pytest.importorskip("safetensors", reason="files of all formats are read")
    verdicts = read_all(tmp_path, giants())
    assert set(verdicts.values()) == {"refused"}
    assert len(verdicts) == len(giants())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("base", ["pipe.yaml", "/dev/zero", "large.yaml", "b0.yaml", "folder.yaml"])
def test_bases_that_never_end(tmp_path, base):
    """A pipe that nobody writes to, a device, a file of 5 MB, and 2^24 times the same file."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"# " * 2_500_000)
    for n in range(25):
        (tmp_path / f"b{n}.yaml").write_text(f"_BASE_: [b{n + 1}.yaml, b{n + 1}.yaml]")
    (tmp_path / "b25.yaml").write_text("RNG_SEED: 3")
    (tmp_path / "own.yaml").write_text(f"_BASE_: {base}")
    with pytest.raises(ConfigError) as error:
        load_cfg(tmp_path / "own.yaml")
    assert len(error.value.problems) == 1
    assert len(str(error.value)) < 1000


def test_a_configuration_from_a_pipe(tmp_path):
    """As the shell makes one of <(command)."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("RNG_SEED: 3",))
    writer.start()
    assert load_cfg(tmp_path / "pipe").RNG_SEED == 3
    writer.join()
