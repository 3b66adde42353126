"""Time and memory of networks, octave and vanilla, ours and in torch's 3D operations.

Every network runs in a process of its own, a few steps at a time in turns, so that all meet the
same machine; peak memory is that of its tensors. The variants:

    conv3d_eager   the vanilla network as it is usually written: nn.Conv3d (of an image network:
                   nn.Conv2d), eager, contiguous memory
    ours           as octvideo runs it: `optimize_for_inference`, or 2D operations in training
    ours_compiled  the same under torch.compile
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from octvideo.api.create import create_model
from octvideo.api.turns import process
from octvideo.engine.precision import DTYPES, autocast, channels_last, move_model
from octvideo.layers import conv3d_as_2d
from octvideo.models import named_spec, optimize_for_inference
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError
from octvideo.utils.memory import keep_freed_memory

VARIANTS = ("conv3d_eager", "ours", "ours_compiled")
_WARM_UP = 2  # rounds
_STEPS = 3  # of a turn; the first, which finds the caches of another process, is not timed

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One network and how it is run; ``size`` is the side of the clip or image."""

    model: str
    alpha: float = 0.0
    variant: str = "ours"
    training: bool = False
    device: str = "cpu"
    dtype: str = "fp32"
    threads: int = 1
    batch: int = 1
    size: int = 224
    stages: tuple[int, ...] = (2, 3, 4)
    channel_divisor: int = 1

    def build(self) -> nn.Module:
        return create_model(
            self.model,
            octave_alpha=self.alpha,
            octave_stages=self.stages,
            channel_divisor=self.channel_divisor,
        )

    def begin(self) -> Callable[[str], float]:
        """Returns what answers "step" with seconds and "peak" with megabytes."""
        step = _step(self)
        answers = {"step": _time, "peak": _peak_memory}
        return lambda what: answers[what](step, self.device)


def benchmark_models(
    models: Sequence[str],
    alphas: Sequence[float],
    variants: Sequence[str] = VARIANTS[:2],
    rounds: int = 15,
    **options: Any,
) -> list[Row]:
    """Measures each model with each alpha, and its vanilla twin, in one interleaved run.

    Args:
        models, alphas: of ``create_model``.
        variants: of ``VARIANTS``; conv3d_eager is of the vanilla network alone.
        rounds: turns of each, of three steps, after a warm-up.
        options: of ``Subject``.

    Returns:
        Rows of model, alpha, variant, mode (inference or train), device, dtype, threads, batch,
        size, stages, channel_divisor, macs of a clip, median_ms and spread_ms (between the
        quartiles) of a step, clips_per_s, peak_mb (of a step's tensors, beyond the model and the
        optimizer's state), speedup (over conv3d_eager, None without it), theoretical
        (multiply-adds of the vanilla network / of this) and realised (speed-up over the vanilla
        network of the same variant / theoretical). Ratios are medians over the rounds.

    Raises:
        UserError: no such variant or device, or a process failed; the message has its error.
    """
    if unknown := set(variants) - set(VARIANTS):
        raise UserError(f"unknown variant {', '.join(unknown)}; known: {', '.join(VARIANTS)}")
    if options.get("device") == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device")
    rows = []
    for model in models:
        vanilla = Subject(model, **options)
        subjects = [
            replace(vanilla, variant=variant, alpha=alpha)
            for variant in variants
            for alpha in dict.fromkeys((0.0, *alphas))
            if not alpha or variant != "conv3d_eager"
        ]
        rows += _rows(subjects, _measure(subjects, rounds))
    return rows


# ------------------------------------------------------------------------------- in turns


def _measure(subjects: Sequence[Subject], rounds: int) -> dict[Subject, tuple[list[float], float]]:
    """Seconds of each round, and peak megabytes."""
    with ExitStack() as stack:
        started = [(s, stack.enter_context(process(s))) for s in subjects]
        times: dict[Subject, list[float]] = {subject: [] for subject in subjects}
        for n in tqdm(range(_WARM_UP + rounds), desc=subjects[0].model, leave=False, disable=None):
            for subject, run in started:
                seconds = run("step")
                if n >= _WARM_UP:
                    times[subject].append(seconds)
        return {subject: (times[subject], run("peak")) for subject, run in started}


def _time(step: Callable[[], object], device: str) -> float:
    """Seconds of a step, in a turn."""
    step()
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(_STEPS - 1):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / (_STEPS - 1)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_memory(step: Callable[[], object], device: str) -> float:
    """Megabytes of tensors that a step needs at once, beyond what is there before it.

    On a CPU as torch's allocator counts them, as the size of a process depends on what it did
    before; the library's own buffers are not in it.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the profiler's lines; errors go by the pipe
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    in_use = np.cumsum([0, *(e.nbytes() for e in events if e.name() == "[memory]")])
    return float(in_use.max()) / 2**20


# ------------------------------------------------------------------------------- what is run


def _step(subject: Subject) -> Callable[[], object]:
    """Returns one forward pass, or one training step, on a fixed batch."""
    torch.manual_seed(0)
    device, ours = torch.device(subject.device), subject.variant != "conv3d_eager"
    conv3d_as_2d.enabled = ours
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    elif ours:
        keep_freed_memory()
    model = subject.build().to(device)
    if ours:
        model = move_model(model, device)
    clips = torch.randn(_shape(subject, subject.batch), device=device)
    clips = channels_last(clips) if ours else clips
    if subject.training:
        return _training_step(subject, model.train(), clips)
    precision = subject.dtype
    if ours:
        model = optimize_for_inference(model, DTYPES.get(precision))
        clips = clips.to(DTYPES.get(precision, torch.float32))
        precision = "fp32"
    run = _compiled(model.eval(), subject)

    def step() -> None:
        with torch.inference_mode(), autocast(device, precision):
            run(clips)

    return step


def _training_step(subject: Subject, model: nn.Module, clips: Tensor) -> Callable[[], None]:
    device = clips.device
    labels = torch.zeros(len(clips), dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(
        model.parameters(), 1e-4, 0.9, weight_decay=1e-4, nesterov=True, fused=True
    )
    scaler = torch.amp.GradScaler(device.type, enabled=subject.dtype == "fp16")
    run = _compiled(model, subject)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, subject.dtype):
            loss = F.cross_entropy(run(clips).float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _compiled(model: nn.Module, subject: Subject) -> Callable[[Tensor], Tensor]:
    if subject.variant != "ours_compiled":
        return model
    return torch.compile(model, dynamic=False)


# ------------------------------------------------------------------------------- rows


def _rows(
    subjects: Sequence[Subject], measured: dict[Subject, tuple[list[float], float]]
) -> list[Row]:
    rows = []
    eager = next((s for s in subjects if s.variant == "conv3d_eager"), None)
    macs = {s.alpha: _macs(s) for s in subjects}
    for subject in subjects:
        seconds, peak = measured[subject]
        low, median, high = np.percentile(seconds, (25, 50, 75)) * 1000
        twin = measured[replace(subject, alpha=0.0)][0]
        theoretical = macs[0.0] / macs[subject.alpha]
        about = asdict(subject)
        about["mode"] = "train" if about.pop("training") else "inference"
        rows.append(
            {
                **about,
                "stages": [*subject.stages] if subject.alpha else [],
                "macs": macs[subject.alpha],
                "median_ms": round(median, 2),
                "spread_ms": round(high - low, 2),
                "clips_per_s": round(1000 * subject.batch / median, 2),
                "peak_mb": round(peak, 1),
                "speedup": _ratio(measured[eager][0], seconds) if eager else None,
                "theoretical": round(theoretical, 3),
                "realised": round(_ratio(twin, seconds) / theoretical, 3),
            }
        )
    return rows


def _macs(subject: Subject) -> int:
    with torch.device("meta"):
        model = subject.build()
    return count(model, _shape(subject)).macs


def _shape(subject: Subject, batch: int = 1) -> tuple[int, ...]:
    """Returns the shape of clips (N, 3, T, S, S), or of images (N, 3, S, S)."""
    spec = named_spec(subject.model)
    frames = () if spec.is_image else (spec.num_frames,)
    return (batch, 3, *frames, subject.size, subject.size)


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return round(float(np.median(np.divide(slow, fast))), 3)


def format_model_rows(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [
        "| model | alpha | variant | GMACs | ms | spread | clips/s | peak MB | "
        "against conv3d_eager | against ours, vanilla: theory | realised / theory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["model"] + (
            f" (divisor {row['channel_divisor']})" if row["channel_divisor"] > 1 else ""
        )
        speedup = "" if row["speedup"] is None else f"{row['speedup']:.2f}"
        lines.append(
            f"| {name} | {row['alpha']:g} | {row['variant']} | {row['macs'] / 1e9:.2f} "
            f"| {row['median_ms']:.1f} | {row['spread_ms']:.1f} | {row['clips_per_s']:.2f} "
            f"| {row['peak_mb']:.0f} | {speedup} | {row['theoretical']:.2f} "
            f"| {row['realised']:.3f} |"
        )
    return "\n".join(lines)
