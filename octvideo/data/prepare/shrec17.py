"""SHREC'17 hand gestures: from the official download's depth images to small clips and lists.

The download has one folder a recording, ``gesture_G/finger_F/subject_S/essai_E``, with a 16-bit PNG
of 640 x 480 millimetres for each frame and ``general_informations.txt``, whose lines are the frame
and the box of the hand (x, y, width, height). ``train_gestures.txt`` and ``test_gestures.txt`` list
the recordings: gesture, finger, subject, repetition, label of 14, label of 28, frames.

Q. De Smedt, H. Wannous, J.-P. Vandeborre, J. Guerry, B. Le Saux, D. Filliat: SHREC'17 Track: 3D
Hand Gesture Recognition Using a Depth and Skeletal Dataset. 3DOR 2017.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from octvideo.data.synthetic.videos import write_video
from octvideo.utils.errors import UserError
from octvideo.utils.files import claim, has_content, write_csv, write_whole
from octvideo.utils.workers import Failure, run_guarded

CLASSES = (
    "grab", "tap", "expand", "pinch", "rotate_cw", "rotate_ccw", "swipe_right", "swipe_left",
    "swipe_up", "swipe_down", "swipe_x", "swipe_plus", "swipe_v", "shake",
)  # fmt: skip
VAL_SUBJECTS = (19, 20)  # of the official training part, held out to choose by
DEPTH = 150.0  # millimetres to each side of the median of a clip that are shown
RATE = 30
_SETTINGS = "shrec17.json"
_BOXES = "general_informations.txt"


@dataclass(frozen=True)
class Recording:
    """One gesture of a person; `fingers` is 1 or 2, for the whole hand."""

    gesture: int  # from 1
    fingers: int
    subject: int
    repetition: int
    split: str

    @property
    def folder(self) -> str:
        """Returns where its frames are in the download."""
        return (
            f"gesture_{self.gesture}/finger_{self.fingers}/subject_{self.subject}"
            f"/essai_{self.repetition}"
        )

    @property
    def clip(self) -> str:
        """Returns the name of its clip."""
        name = f"g{self.gesture:02}_f{self.fingers}_s{self.subject:02}_e{self.repetition}.mp4"
        return f"{self.split}/{name}"


@dataclass(frozen=True)
class Shape:
    """Frames and pixels a side of the clips that are made."""

    frames: int = 32
    size: int = 50

    def __post_init__(self) -> None:
        if self.frames < 2 or self.size < 8 or self.size % 2:
            raise UserError(
                f"a clip needs 2 frames and an even size of 8 pixels or more, "
                f"got {self.frames} of {self.size}"
            )


def recordings(root: Path) -> list[Recording]:
    """Returns what the lists of the download name; ``VAL_SUBJECTS`` are the validation.

    Raises:
        UserError: a list is missing, or a line of it cannot be read.
    """
    found = []
    for name, part in (("train_gestures.txt", "train"), ("test_gestures.txt", "test")):
        file = root / name
        if not file.is_file():
            raise UserError(
                f"{file} is missing: give the folder that holds gesture_1, gesture_2 ..."
            )
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                gesture, fingers, subject, repetition = map(int, line.split()[:4])
            except ValueError:
                raise UserError(
                    f"{file}, line {number}: expected gesture, finger, subject and repetition, "
                    f"got {line!r}"
                ) from None
            if not 1 <= gesture <= len(CLASSES):
                raise UserError(f"{file}, line {number}: gesture {gesture} is not from 1 to 14")
            held_out = part == "train" and subject in VAL_SUBJECTS
            split = "val" if held_out else part
            found.append(Recording(gesture, fingers, subject, repetition, split))
    return found


def read_recording(folder: Path, shape: Shape) -> np.ndarray:
    """Returns the clip of a recording, (frames, size, size, 3) uint8, near pixels bright.

    The frames are spread evenly over the recording; the hand's box becomes a square.

    Raises:
        UserError: a file is missing or cannot be read, or a box lies outside of its image.
    """
    file = folder / _BOXES
    try:
        boxes = np.loadtxt(file, dtype=np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
    if boxes.shape[1] != 5 or not len(boxes):
        raise UserError(f"{file} has rows of {boxes.shape[1]} numbers, not of 5")
    chosen = np.linspace(0, len(boxes) - 1, shape.frames).round().astype(int)
    depths = [_cropped(_image(folder, index), boxes[index, 1:], folder) for index in chosen]
    seen = np.concatenate([depth[depth > 0] for depth in depths])
    if not len(seen):
        raise UserError(f"{folder} has no depth inside the boxes of the hand")
    middle = np.median(seen)
    frames = []
    for depth in depths:
        light = np.clip((middle + DEPTH - depth) / (2 * DEPTH), 0, 1) * (depth > 0)
        image = Image.fromarray((255 * light + 0.5).astype(np.uint8))
        frames.append(np.asarray(image.resize((shape.size, shape.size), Image.Resampling.BOX)))
    return np.repeat(np.stack(frames)[..., None], 3, -1)


def _image(folder: Path, index: int) -> np.ndarray:
    """Returns a frame in millimetres; 0 where nothing was measured: (H, W) float."""
    files = [folder / name for name in (f"{index}_depth.png", f"depth_{index}.png")]
    file = next((file for file in files if file.is_file()), files[0])
    try:
        with Image.open(file) as image:
            depth = np.asarray(image)
    except OSError as error:
        raise UserError(f"{file}: {error}") from error
    if depth.ndim != 2:
        raise UserError(f"{file} is not an image of one channel, but of shape {depth.shape}")
    return depth.astype(np.float64)


def _cropped(depth: np.ndarray, box: np.ndarray, folder: Path) -> np.ndarray:
    x, y, width, height = box
    part = depth[max(y, 0) : y + height, max(x, 0) : x + width]
    if not part.size:
        raise UserError(f"{folder}: the box {box.tolist()} lies outside of {depth.shape}")
    return part


def prepare_shrec17(
    root: Path, out: Path, shape: Shape = Shape(), num_workers: int = 2, timeout: float = 60.0
) -> dict[str, int]:
    """Makes the clips, their lists and ``class_names.json`` in ``out``.

    Clips that are there are not made again. What cannot be read is in ``bad_videos.csv``.

    Returns:
        The number of clips in each list, and of bad recordings.

    Raises:
        UserError: the lists of the download cannot be read, no recording can, or ``out`` holds
            clips of another shape.
        OSError: the disk refuses.
    """
    plan = recordings(root)
    out.mkdir(parents=True, exist_ok=True)
    claim(out / _SETTINGS, asdict(shape))
    missing = [r for r in plan if not has_content(out / r.clip)]
    for split in ("train", "val", "test"):
        (out / split).mkdir(exist_ok=True)
    bad: dict[str, str] = {}
    job = partial(_make, root=root, out=out, shape=shape)
    results = run_guarded(job, missing, num_workers, timeout, preload=[__name__])
    for index, result in tqdm(results, total=len(missing), unit="clip", disable=None):
        if isinstance(result, OSError):
            raise result
        if isinstance(result, Failure):
            bad[missing[index].folder] = result.reason
    good = [r for r in plan if r.folder not in bad]
    if not good:
        raise UserError(
            f"none of the {len(plan)} recordings can be read: {next(iter(bad.values()))}"
        )
    write_csv(out / "bad_videos.csv", [("path", "reason"), *sorted(bad.items())])
    counts = {}
    for split in ("train", "val", "test"):
        lines = [f"{r.clip} {r.gesture - 1}\n" for r in good if r.split == split]
        write_whole(out / f"{split}.csv", "".join(lines))
        counts[split] = len(lines)
    names = {name: label for label, name in enumerate(CLASSES)}
    write_whole(out / "class_names.json", json.dumps(names, indent=2) + "\n")
    return {**counts, "bad": len(bad)}


def _make(recording: Recording, root: Path, out: Path, shape: Shape) -> Failure | OSError | None:
    """Makes one clip; runs in a worker."""
    try:
        frames = read_recording(root / recording.folder, shape)
    except UserError as error:
        return Failure(str(error))
    try:
        write_video(out / recording.clip, frames, RATE)
    except OSError as error:  # no other clip will fare better
        return OSError(error.errno, error.strerror, str(out / recording.clip))
    return None
