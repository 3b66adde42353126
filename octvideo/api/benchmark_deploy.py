"""Time and memory of a network in every form in which it can be run on a CPU.

The forms, each in a process of its own that takes turns with the others:

    ours, ours_bf16, ours_compiled   `optimize_for_inference`; in bf16; under torch.compile
    onnx, openvino, openvino_bf16    the exported file in its runtime
    onnx_int8, openvino_int8         the same after `octvideo.quantize`
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from octvideo.api.create import create_model
from octvideo.api.exporting import export
from octvideo.api.loading import load
from octvideo.api.protocols import protocol_of
from octvideo.api.turns import process
from octvideo.deploy import FORMATS, open_exported
from octvideo.deploy.files import megabytes
from octvideo.deploy.int8 import Quantiser
from octvideo.engine.precision import DTYPES, channels_last, move_model
from octvideo.models import list_models, optimize_for_inference
from octvideo.models.classifier import Network
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError
from octvideo.utils.memory import keep_freed_memory

FORMS = (
    *("ours", "ours_bf16", "ours_compiled"),
    *("onnx", "onnx_int8", "openvino", "openvino_bf16", "openvino_int8"),
)
DEFAULT_FORMS = tuple(form for form in FORMS if form != "openvino_bf16")  # few CPUs have it
_WARM_UP = 1  # rounds
_STEPS = 2  # of a turn that are timed, after one that finds the caches of another process
_CALIBRATION = 4  # random clips: the weights are random too, or accuracy is measured elsewhere

Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One network in one form; ``path`` is of the exported file."""

    source: str
    alpha: float
    form: str
    shape: tuple[int, ...]  # of the clips of one step
    threads: int = 1
    path: str = ""

    def begin(self) -> Callable[[str], list[float]]:
        """Returns what answers "step" with wall-clock and CPU seconds, "memory" with megabytes."""
        torch.manual_seed(0)
        before = _memory("VmRSS")
        run = self._file() if self.path else self._ours()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of before is forgotten

        def answer(what: str) -> list[float]:
            run()
            if what == "memory":
                return [_memory("VmHWM") - before]
            start = time.perf_counter(), time.process_time()
            for _ in range(_STEPS):
                run()
            end = time.perf_counter(), time.process_time()
            return [(b - a) / _STEPS for a, b in zip(start, end, strict=True)]

        return answer

    @property
    def _precision(self) -> str:
        return "bf16" if self.form.endswith("_bf16") else "fp32"

    def _file(self) -> Callable[[], object]:
        network, clips = open_exported(self.path, self._precision), torch.randn(self.shape)
        return lambda: network.run([clips])

    def _ours(self) -> Callable[[], object]:
        keep_freed_memory()
        dtype = DTYPES.get(self._precision, torch.float32)
        model = move_model(network_of(self.source, self.alpha), torch.device("cpu"))
        run: Any = optimize_for_inference(model, dtype).eval()
        if self.form == "ours_compiled":
            run = torch.compile(run, dynamic=False)
        clips = channels_last(torch.randn(self.shape)).to(dtype)

        def step() -> None:
            with torch.inference_mode():
                run(clips)

        return step


def network_of(source: str, alpha: float) -> Network:
    """Returns a network of random weights by its name, otherwise what `load` gives."""
    found: nn.Module = (
        create_model(source, octave_alpha=alpha).eval() if source in list_models() else load(source)
    )
    if not isinstance(found, Network):
        raise UserError(f"{source} is no network that octvideo could run itself")
    return found


def benchmark_deploy(
    sources: Sequence[str],
    alphas: Sequence[float],
    forms: Sequence[str] = DEFAULT_FORMS,
    threads: Sequence[int] = (1,),
    batch: int = 1,
    rounds: int = 8,
    *,
    folder: Path,
) -> list[Row]:
    """Measures networks in several forms in one interleaved run.

    Args:
        sources: names of ``create_model``, vanilla and with each alpha; or what ``load`` takes.
        forms: of ``FORMS``.
        threads: of the CPU; each number of them has its rows.
        folder: where the exported files are kept; those that are there already are used.

    Returns:
        Rows of source, alpha, form, threads, batch, macs of a clip, ms and cpu_ms of a step
        (medians), clips_per_s, memory_mb (resident, with the weights), file_mb, and the ratios
        of_ours (time of ours in fp32 / this), of_float (of int8 and bf16: time in fp32 / this),
        speedup (over the first network without octave, in the same form), theory (its
        multiply-adds / those of this) and realised (speedup / theory). Ratios are medians over
        the rounds, of CPU time with one thread and of wall-clock time with several.

    Raises:
        UserError: no such form or network, a package is missing, or a process failed.
    """
    if unknown := set(forms) - {*FORMS}:
        raise UserError(f"unknown form {', '.join(unknown)}; known: {', '.join(FORMS)}")
    subjects, macs = [], {}
    for source in sources:
        for alpha in dict.fromkeys((0.0, *alphas)) if source in list_models() else (None,):
            model = network_of(source, alpha or 0.0)
            spec, protocol = model.spec, protocol_of(model)
            time_axis = () if spec.is_image else (protocol.num_frames,)
            side = (protocol.centre_crop or protocol).crop_size  # of a test, as in exported files
            shape = (batch, 3, *time_axis, side, side)
            subject = Form(source, spec.octave.alpha, "", shape)
            macs[source, subject.alpha] = count(model, (1, *shape[1:])).macs
            for form in forms:
                path = _file(model, subject, form, folder)
                subjects.append(replace(subject, form=form, path=path))
    rows = []
    for number in threads:
        chosen = [replace(subject, threads=number) for subject in subjects]
        rows += _rows(chosen, _measure(chosen, rounds), macs)
    return rows


def _file(model: Network, subject: Form, form: str, folder: Path) -> str:
    """Returns the path of the exported file of a form, which is written if it is not there."""
    runtime, _, change = form.partition("_")
    if runtime not in FORMATS:
        return ""
    name = f"{Path(subject.source).stem}_{subject.alpha:g}"
    path = folder / f"{name}{FORMATS[runtime]}"
    if not path.exists():
        export(model, path)
    if change != "int8":
        return str(path)
    whole = path.with_name(f"{name}.int8{FORMATS[runtime]}")
    if not whole.exists():
        clips = torch.randn(_CALIBRATION, *subject.shape[1:]).split(1)
        Quantiser(open_exported(path), [[clip] for clip in clips]).write(whole)
    return str(whole)


def _measure(subjects: Sequence[Form], rounds: int) -> dict[Form, tuple[list[list[float]], float]]:
    """Returns the wall-clock and CPU seconds of each round, and megabytes."""
    with ExitStack() as stack:
        started = [(s, stack.enter_context(process(s))) for s in subjects]
        times: dict[Form, list[list[float]]] = {subject: [] for subject in subjects}
        for n in tqdm(range(_WARM_UP + rounds), desc="rounds", leave=False, disable=None):
            for subject, ask in started:
                seconds = ask("step")
                if n >= _WARM_UP:
                    times[subject].append(seconds)
        return {subject: (times[subject], ask("memory")[0]) for subject, ask in started}


def _rows(
    subjects: Sequence[Form],
    measured: dict[Form, tuple[list[list[float]], float]],
    macs: dict[tuple[str, float], int],
) -> list[Row]:
    rows = []
    column = 1 if subjects[0].threads == 1 else 0  # of what ratios are made
    for subject in subjects:
        own = {
            s.form: s for s in subjects if (s.source, s.alpha) == (subject.source, subject.alpha)
        }
        vanilla = next((s for s in subjects if not s.alpha and s.form == subject.form), None)
        seconds, memory = measured[subject]

        def faster(other: Form | None, than: list[list[float]] = seconds) -> float | None:
            """Returns how many times the time of another form this is, at the median."""
            if other is None:
                return None
            pairs = zip(measured[other][0], than, strict=True)
            return round(float(np.median([a[column] / b[column] for a, b in pairs])), 3)

        wall, cpu = (1000 * float(np.median([s[i] for s in seconds])) for i in (0, 1))
        cost = macs[subject.source, subject.alpha]
        theory = macs[vanilla.source, vanilla.alpha] / cost if vanilla else None
        speedup = faster(vanilla)
        runtime = subject.form.removesuffix("_int8").removesuffix("_bf16")
        about = asdict(subject)
        path, shape = about.pop("path"), about.pop("shape")
        rows.append(
            {
                **about,
                "batch": shape[0],
                "macs": cost,
                "ms": round(wall, 2),
                "cpu_ms": round(cpu, 2),
                "clips_per_s": round(1000 * shape[0] / wall, 2),
                "memory_mb": round(memory, 1),
                "file_mb": round(megabytes(Path(path)), 2) if path else None,
                "of_ours": faster(own.get("ours")),
                "of_float": faster(own.get(runtime)) if subject.form != runtime else None,
                "speedup": speedup,
                "theory": theory and round(theory, 3),
                "realised": theory and speedup and round(speedup / theory, 3),
            }
        )
    return rows


def _memory(key: str) -> float:
    """Returns a value of /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def format_deploy_rows(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [
        "| network | alpha | form | threads | ms | CPU ms | clips/s | memory MB | file MB "
        "| times as fast as ours | as float | as vanilla | in theory | realised |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = ("of_ours", "of_float", "speedup", "theory", "realised")
        size = "" if row["file_mb"] is None else f"{row['file_mb']:.1f}"
        cells = [
            *(row["source"], f"{row['alpha']:g}", row["form"], row["threads"]),
            *(f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}", f"{row['clips_per_s']:.2f}"),
            *(f"{row['memory_mb']:.0f}", size),
            *("" if row[key] is None else f"{row[key]:.2f}" for key in ratios),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
