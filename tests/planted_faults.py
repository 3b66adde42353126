"""Plants faults in a copy of the package, one at a time, and says which quick test finds each.

    python tests/planted_faults.py [--checkout FOLDER] [NAME ...]

Run it after tests were merged or moved: each fault must still be found. It exits with 1 where one
is not, and where the text of a fault is not in the package any more: then adapt the fault.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("octvideo", "tests", "tools", "configs", "studies", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Fault:
    """A text of the package (in one place), the wrong one in its place, files or names of tests."""

    name: str
    right: str
    wrong: str
    tests: tuple[str, ...]


FAULTS = [
    Fault(
        "order of the joined low maps",
        "self._path(self._join(x_l, pooled), kernel, bias)",
        "self._path(join_groups(pooled, x_l, self.groups), kernel, bias)",
        ("layers/test_octave.py",),
    ),
    Fault(
        "pool drops the last odd row",
        'options = {"ceil_mode": True, "count_include_pad": False}',
        'options = {"ceil_mode": False, "count_include_pad": False}',
        ("layers/test_octave.py",),
    ),
    Fault(
        "alpha rounds instead of cutting",
        "int(int(alpha * channels) / divisor + 0.5)",
        "int(alpha * channels / divisor + 0.5)",
        ("layers/test_octave_values.py", "models/test_golden.py"),
    ),
    Fault(
        "low frequencies have no running statistics",
        "y_l = self._normalize(x_l, of_low, momentum)",
        "y_l = self._normalize(x_l, of_low, 0.0)",
        ("layers/test_octave_norm.py",),
    ),
    Fault(
        "precise statistics keep Bessel's correction",
        "var = var * (count - 1) / count",
        "var = var * count / count",
        ("engine/test_averaging.py",),
    ),
    Fault(
        "the average of weights is nearly the weights",
        "others, 1 - self.decay)",
        "others, self.decay)",
        ("engine/test_averaging.py",),
    ),
    Fault(
        "a clip is one frame too long",
        "torch.linspace(start, start + span - 1, num_frames)",
        "torch.linspace(start, start + span, num_frames)",
        ("data/test_sampling.py",),
    ),
    Fault(
        "crops start half a pixel higher",
        "math.ceil((height - crop) / 2)",
        "(height - crop) // 2",
        ("data/test_sampling.py",),
    ),
    Fault(
        "views are ordered by crop",
        'for clip in item["clips"] for crop in item["crops"]',
        'for crop in item["crops"] for clip in item["clips"]',
        ("engine/test_view_order.py", "engine/test_results.py"),
    ),
    Fault(
        "labels are sorted in a batch",
        '"label": torch.tensor([item["label"] for _, item in kept]',
        '"label": torch.tensor(sorted(item["label"] for _, item in kept)',
        ("data/test_clips.py", "data/test_loader.py", "data/test_augment.py"),
    ),
    Fault(
        "the first blank ends a path",
        "place = line.rfind(separator)",
        "place = line.find(separator)",
        ("data/sources/test_lists.py",),
    ),
    Fault(
        "semicolons do not separate",
        '("\\t", ",", ";", " ")',
        '("\\t", ",", " ")',
        ("data/sources/test_lists.py",),
    ),
    Fault(
        "another cosine",
        "(1 + math.cos(math.pi * progress)) / 2",
        "(1 + math.cos(3 * progress)) / 2",
        ("engine/test_optim.py",),
    ),
    Fault(
        "the warm-up begins at zero",
        "slope = (end - self.warmup_start_lr) / self.warmup_epochs",
        "slope = end / self.warmup_epochs",
        ("engine/test_optim.py",),
    ),
    Fault(
        "mixed targets have the other share",
        "targets.lerp(targets.flip(0), 1 - share)",
        "targets.lerp(targets.flip(0), share)",
        ("engine/test_mixup.py",),
    ),
    Fault(
        "momentum is lost on resuming",
        'load_state_dict({"state": buffers, "param_groups": settings})',
        'load_state_dict({"state": {}, "param_groups": settings})',
        ("engine/test_resume.py",),
    ),
    Fault(
        "random numbers begin again on resuming",
        "torch.set_rng_state(own.rng)",
        "None",
        ("engine/test_resume.py",),
    ),
    Fault(
        "a checkpoint is written in place",
        "            os.fsync(file.fileno())\n        os.replace(temporary, path)",
        "            os.fsync(file.fileno())\n        path.write_bytes(temporary.read_bytes())",
        ("engine/test_checkpoint.py", "engine/test_resume.py"),
    ),
    Fault(
        "two runs may share a folder",
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("distributed/test_run_lock.py",),
    ),
    Fault(
        "scores stand in the row before",
        "self.scores[video] = scores",
        "self.scores[video - 1] = scores",
        ("engine/test_results.py",),
    ),
    Fault(
        "softmax over the batch",
        "partial(torch.softmax, dim=-1)",
        "partial(torch.softmax, dim=0)",
        ("models/test_models.py",),
    ),
    Fault(
        "files are unpickled",
        'map_location="cpu", weights_only=True)',
        'map_location="cpu", weights_only=False)',
        ("weights/test_hostile.py",),
    ),
    Fault(
        "Caffe2's mean and variance change places",
        '"rm": "running_mean", "riv": "running_var"',
        '"riv": "running_mean", "rm": "running_var"',
        ("weights/test_weight_names.py",),
    ),
    Fault(
        "MXNet's frequencies are joined as [H | L]",
        'for f in "lh" if f in by_output',
        'for f in "hl" if f in by_output',
        ("weights/test_mxnet_names.py",),
    ),
    Fault(
        "a gate's halves change places",
        "return take(other, order.high, -axis), take(other, order.low, -axis)",
        "return take(other, order.low, -axis), take(other, order.high, -axis)",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "the mean over space is [H | L]",
        "high if x.low is None else in_order(func(x.low, **options), high, x.order)",
        "high if x.low is None else in_order(high, func(x.low, **options), x.order)",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "a concatenation forgets which channels are low",
        "layout = concatenated([_layout_of(value) for value in values])",
        "layout = None",
        ("layers/test_oct_tensor.py", "surgery/test_cuts.py", "surgery/test_random_networks.py"),
    ),
    Fault(
        "a part of the channels begins where the whole does",
        "(max(a, start) - start, min(b, stop) - start)",
        "(max(a, start), min(b, stop))",
        ("layers/test_oct_tensor.py", "surgery/test_cuts.py"),
    ),
    Fault(
        "statistics of a layout go back in the order [L | H]",
        "own[order] = copy",
        "own.copy_(copy)",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "strict mode is off",
        "    if _strict:\n        raise MergeError",
        "    if False:\n        raise MergeError",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "a sum in place loses the octave part",
        "args[0].high, args[0].low, args[0].layout = result.high, result.low, result.layout",
        "args[0].high, args[0].layout = result.high, result.layout",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "columns of a weight behind a concatenation stay where they were",
        "                columns = order[0]\n",
        "                columns = None\n",
        ("layers/test_oct_tensor.py", "surgery/test_random_networks.py"),
    ),
    Fault(
        "a pooling branch keeps the last pool of its input",
        "        a.forget_pooled()  # perhaps a sum in place",
        "        pass",
        ("layers/test_oct_tensor.py",),
    ),
    Fault(
        "a folded norm forgets its epsilon",
        "torch.rsqrt(norm.running_var + norm.eps)",
        "torch.rsqrt(norm.running_var + 0.1)",
        ("models/test_optimize.py",),
    ),
    Fault(
        "the slow pathway takes the first frames",
        'torch.linspace(0, num_frames - 1, count, device="cpu")',
        'torch.linspace(0, count - 1, count, device="cpu")',
        ("models/test_reference_network.py",),
    ),
    Fault(
        "the last block of res5 stays octave",
        "is_last = (stage, block) == (5, self.last_block)",
        "is_last = (stage, block) == (5, 0)",
        ("models/test_models.py",),
    ),
    Fault(
        "the last block of a MobileNet's stage is of its own",
        'return conv == "conv2" and self.has(stage + is_last)',
        'return conv == "conv2" and self.has(stage)',
        ("weights/test_mxnet_networks.py",),
    ),
    Fault(
        "the first convolution is octave",
        "    if call not in flow.has_conv_before:\n",
        "    if False:\n",
        ("surgery/test_cuts.py", "surgery/test_peers.py"),
    ),
    Fault(
        "the roughest channels become low",
        "by_group.argsort(dim=1)[:,",
        "by_group.argsort(dim=1, descending=True)[:,",
        ("surgery/test_tuning.py",),
    ),
    Fault(
        "calibrating weighs the last batches most",
        "norm.momentum = 1 / count",
        "norm.momentum = 0.5",
        ("surgery/test_tuning.py",),
    ),
    Fault(
        "a budget spares the layers that lose least",
        "sorted(price, key=price.__getitem__, reverse=True)",
        "sorted(price, key=price.__getitem__)",
        ("surgery/test_tuning.py",),
    ),
    Fault(
        "the divergence is that of the teacher from the student",
        "F.kl_div(log_p, log_q, log_target=True",
        "F.kl_div(log_q, log_p, log_target=True",
        ("surgery/test_tuning.py",),
    ),
    Fault(
        "a network's record ignores where it is octave",
        "facts |= self.octave_options()",
        "pass",
        ("models/test_record.py",),
    ),
    Fault(
        "parts of a batch are averaged without their sizes",
        "loss * (len(wanted) / len(targets))",
        "loss / self.num_parts",
        ("engine/test_run.py::test_parts_of_a_batch_add_up_to_its_gradient",),
    ),
    Fault(
        "one unreadable video ends every run",
        "max(self.max_fraction * self.num_videos, 1) if",
        "self.max_fraction * self.num_videos if",
        ("engine/test_bad_videos.py",),
    ),
    Fault(
        "validation averages the losses of batches",
        "sums[0] += loss(scores, labels) * len(labels)",
        "sums[0] += loss(scores, labels)",
        ("engine/test_validate.py",),
    ),
    Fault(
        "images are mirrored always",
        "if self.flip and rng.random() < 0.5",
        "if self.flip and rng.random() < 1.5",
        ("data/test_image_transforms.py",),
    ),
    Fault(
        "labels of images count from the last class",
        "    labels = {name: label for label, name in enumerate(names)}",
        "    labels = {name: label for label, name in enumerate(names[::-1])}",
        ("data/sources/test_image_folders.py", "engine/test_pictures_run.py"),
    ),
    Fault(
        "an inflated kernel is not divided by its frames",
        "kernel.repeat(1, 1, frames, 1, 1) / frames",
        "kernel.repeat(1, 1, frames, 1, 1)",
        ("weights/test_inflate.py",),
    ),
]


def copied(checkout: Path, folder: Path) -> Path:
    """Returns a copy of what the tests need, beside the same reference data."""
    tree = folder / "tree"
    tree.mkdir()
    for name in COPIED:
        if (source := checkout / name).is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, tree)
    if (shared := checkout.resolve().parent / "shared").is_dir():
        (folder / "shared").symlink_to(shared.resolve())
    return tree


def place_of(fault: Fault, tree: Path) -> Path | None:
    """Returns the one file that has the text of a fault, once."""
    files = {f: f.read_text() for f in (tree / "octvideo").rglob("*.py")}
    found = {file: text.count(fault.right) for file, text in files.items() if fault.right in text}
    return next(iter(found)) if sum(found.values()) == 1 else None


def found_by(fault: Fault, tree: Path) -> str | None:
    """Returns the test that fails with the fault in place, None if none does."""
    paths = [
        f"tests/{name}" for name in fault.tests if (tree / "tests" / name.split("::")[0]).exists()
    ]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths]
    command += ["-m", "not slow and not slurm and not gpu"]
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True)
    match = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return match[1] if match else None


def results(checkout: Path, faults: list[Fault]) -> Iterator[tuple[Fault, str | None]]:
    """Yields each fault and the test that found it, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(checkout, Path(folder))
        for fault in faults:
            file = place_of(fault, tree)
            if file is None:
                yield fault, "its text is not in the package"
                continue
            text = file.read_text()
            file.write_text(text.replace(fault.right, fault.wrong))
            yield fault, found_by(fault, tree)
            file.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("names", nargs="*", help="parts of names; none: all faults")
    args = parser.parse_args()
    chosen = [f for f in FAULTS if not args.names or any(n in f.name for n in args.names)]
    missed = 0
    for fault, test in results(args.checkout, chosen):
        is_found = test is not None and "::" in test
        missed += not is_found
        print(f"{'found' if is_found else 'MISSED'}  {fault.name}: {test}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
