"""A trained network becomes octave: converted, refitted, distilled, and measured on files."""

import copy
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import octvideo
from octvideo.api.conversion_report import Agreement, ConversionReport, merges_of, stages_of
from octvideo.api.conversion_views import Judge, Views
from octvideo.api.inference import for_inference
from octvideo.api.loading import checkpoints_of, load
from octvideo.api.predict import Video
from octvideo.api.protocols import protocol_of
from octvideo.deploy import ExportedNetwork
from octvideo.engine.precision import Evaluation
from octvideo.layers import NonLocal3d, OctConv2d, OctConv3d
from octvideo.models.build import build
from octvideo.models.classifier import Network
from octvideo.models.external import ExternalNetwork
from octvideo.models.spec import OctavePlacement
from octvideo.surgery import calibrate as measure_statistics
from octvideo.surgery import distill, low_channels, octavize, summary
from octvideo.surgery import refit as solve_layers
from octvideo.surgery.tuning import TEMPERATURE, divergence
from octvideo.utils.errors import UserError
from octvideo.utils.plain import to_plain
from octvideo.weights import sha256_of

logger = logging.getLogger("octvideo")

_FEW = 16  # views that suffice to choose channels, and to see whether a step helps
_REFIT_VIEWS, _REFIT_BYTES = (8, 256), 2**31  # what refit takes: views, and what it keeps of them
_ROUNDS, _WARM_UP = 7, 2  # of the measured time
LEARNING_RATE = 2e-3


class Conversion(NamedTuple):
    """An octave network, in evaluation mode, and the report of what it cost."""

    model: Network
    report: ConversionReport


def convert_to_octave(
    source: str | os.PathLike[str] | nn.Module,
    files: Sequence[Video],
    alpha: float = 0.25,
    *,
    choose: str = "smooth",
    refit: bool = True,
    calibrate: bool = True,
    steps: int = 200,
    lr: float = LEARNING_RATE,
    fast: bool = False,
    batch_size: int = 8,
    allow_partial: bool = False,
    device: torch.device | str | None = None,
    name: str | None = None,
    command: str = "octvideo.api.conversion.convert_to_octave",
) -> Conversion:
    """Makes a trained vanilla network octave, with the help of a few files without labels.

    ``octvideo.octavize`` keeps the low channels at half the resolution, ``octvideo.refit`` solves
    for the weights of each layer, ``octvideo.calibrate`` measures the statistics of batch norms,
    and ``octvideo.distill`` trains the octave network to answer as the vanilla one. A step that
    makes it worse on the files that it saw is undone. Every fifth file, of several at least one,
    takes part in none of them: agreement is measured on these after each step.

    Args:
        source: what ``octvideo.load`` takes, or a model of it, which does not change.
        files: videos, for image networks also images; the network sees those views of them that
            ``predict`` shows it. Files that cannot be read are left out, with a warning.
        alpha: the share of low channels, in (0, 1).
        choose: which channels become low: "smooth", those that lose least on the files, or
            "first", as in the paper.
        refit: whether the weights of each layer are solved for.
        calibrate: whether batch norms are measured.
        steps: of distillation, each on ``batch_size`` views; 0 for none.
        lr: the first learning rate of distillation.
        fast: one view of each file, not all, for all steps.
        device: where to compute, and where the result is; None: where the model is.
        name: what the report calls the source; None: the source, or the class of a model.
        command: what the report says it was made with.

    Raises:
        UserError: the source is octave already, has non-local blocks or no layer to gain from;
            alpha or another argument is out of range; no file can be read; learning diverges.
    """
    check_arguments(alpha, choose, steps, lr)
    model = source if isinstance(source, nn.Module) else load(source)
    check_vanilla(model)
    settings = protocol_of(model)
    settings = replace(settings, allow_partial=allow_partial or settings.allow_partial)
    teacher = _copy(model, device)
    views = Views(files, settings, fast, batch_size, next(teacher.parameters()).device)
    judge = Judge(teacher, views)
    example = next(iter(views))[:1]
    student = _octave(teacher, alpha, choose, example, views)
    agreement, undone = _improve(
        student, teacher, views, judge, refit=refit, calibrate=calibrate, steps=steps, lr=lr
    )
    costs = summary(student, example)
    vanilla_ms, octave_ms = _milliseconds((teacher, student), example, settings.precision)
    report = ConversionReport(
        source=name or _name_of(source),
        alpha=alpha,
        choose=choose,
        vanilla_macs=costs.vanilla_macs,
        macs=costs.macs,
        stages=stages_of(costs),
        merges=merges_of(costs),
        vanilla_ms=vanilla_ms,
        octave_ms=octave_ms,
        device=_device_name(example.device),
        learned=tuple(views.learned),
        measured=tuple(views.measured),
        is_held_out=views.is_held_out,
        skipped=tuple(views.skipped),
        views=judge.num_views,
        agreement=tuple(agreement),
        undone=tuple(undone),
        steps=steps,
        learning_rate=lr,
        command=command,
        versions={
            "octvideo": octvideo.__version__,
            "Python": platform.python_version(),
            "torch": torch.__version__,
        },
    )
    return Conversion(student, report)


def _name_of(source: str | os.PathLike[str] | nn.Module) -> str:
    return type(source).__name__ if isinstance(source, nn.Module) else os.fspath(source)


def check_arguments(alpha: float, choose: str, steps: int, lr: float) -> None:
    """Raises UserError for a value that is out of range."""
    if not 0 < alpha < 1:
        raise UserError(f"alpha must be in (0, 1), got {alpha:g}: it is the share of low channels")
    if choose not in ("smooth", "first"):
        raise UserError(f"choose must be smooth or first, got {choose!r}")
    if steps < 0:
        raise UserError(f"steps must be at least 0, got {steps}")
    if not 0 < lr < float("inf"):
        raise UserError(f"lr must be above 0, got {lr:g}")


def check_vanilla(model: nn.Module) -> None:
    """Raises UserError for a network that is octave already, or cannot become it."""
    if isinstance(model, ExportedNetwork):
        raise UserError(f"{model.path} is exported already: give the checkpoint of the network")
    for name, module in model.named_modules():
        if isinstance(module, (OctConv2d, OctConv3d)):
            raise UserError(f"the network is octave already ({name}): give the vanilla one")
        if isinstance(module, NonLocal3d):
            raise UserError(
                f"the network has non-local blocks ({name}), whose octave form has other "
                "parameters, so it cannot be converted: train it with OCTAVE.ENABLE instead"
            )


def content_of(conversion: Conversion, source: str | os.PathLike[str]) -> dict[str, object]:
    """Returns what an octave checkpoint holds: ``save_checkpoint`` of octvideo.engine writes it."""
    model, paths = conversion.model, checkpoints_of(source)
    origin = {"name": Path(source).name, "kind": "octavized"}
    if paths:
        origin |= {"name": paths[0].name, "sha256": sha256_of(paths[0])}
    content: dict[str, object] = {
        "model_state": {name: value.cpu() for name, value in model.state_dict().items()},
        "epoch": -1,
        "source": origin,
        "spec": model.spec.to_dict(),
        "protocol": to_plain(model.protocol),
    }
    if names := getattr(model, "class_names", None):
        content["class_names"] = names
    return content


def _copy(model: nn.Module, device: torch.device | str | None) -> Network:
    """Returns a copy in evaluation mode, in float32, on a device."""
    teacher: Network = copy.deepcopy(model).eval().float()  # type: ignore[assignment]
    try:
        return teacher if device is None else teacher.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {str(error).splitlines()[0]}") from error


def _octave(teacher: Network, alpha: float, choose: str, example: Tensor, views: Views) -> Network:
    """Returns the octave network with the teacher's weights, as its record builds it."""
    few = views.sample(_FEW) if choose == "smooth" else []
    placed = octavize(teacher, alpha, example=example, choose=choose, batches=few)
    channels = {name.removeprefix("network."): runs for name, runs in low_channels(placed).items()}
    if not channels:
        raise UserError("no layer of the network gains from an octave, so it stays as it is")
    octave = replace(OctavePlacement(alpha=alpha), channels=tuple(channels.items()))
    student = build(replace(teacher.spec, octave=octave))
    student.load_state_dict(teacher.state_dict())
    student.protocol = teacher.protocol
    if names := getattr(teacher, "class_names", None):
        student.class_names = names
    return student.to(example.device).eval()


def _improve(
    student: Network,
    teacher: Network,
    views: Views,
    judge: Judge,
    *,
    refit: bool,
    calibrate: bool,
    steps: int,
    lr: float,
) -> tuple[list[Agreement], list[str]]:
    """Takes the wanted steps in turn, and undoes each that does harm.

    Returns the agreement before the first and after each step, and the steps that were undone.
    """
    agreement, undone = [judge("octavize", student)], []
    plan: dict[str, Callable[[], object]] = {}
    if refit:
        plan["refit"] = lambda: _refit(student, teacher, views)
    if calibrate:
        plan["calibrate"] = lambda: measure_statistics(student, views)
    if steps:
        plan["distill"] = lambda: _distill(
            student, teacher, views, steps, lr, refit and "refit" not in undone
        )
    few = views.sample(_FEW)
    for step, work in plan.items():
        if not _helps(work, step, student, teacher, few):
            undone.append(step)
        agreement.append(judge(step, student))
    return agreement, undone


def _helps(
    work: Callable[[], object],
    step: str,
    student: Network,
    teacher: Network,
    views: Sequence[Tensor],
) -> bool:
    """Does a step, and returns whether that was of use: if not, nothing is changed.

    Few views of small maps have accidental statistics, which can be worse than old ones.
    """
    before, state = _distance(student, teacher, views), copy.deepcopy(student.state_dict())
    work()
    after = _distance(student, teacher, views)
    if after < before:
        return True
    student.load_state_dict(state)
    logger.warning(
        "%s was undone: on the files that it saw, the divergence from the vanilla network grew "
        "from %.4f to %.4f; with more files it may help",
        *(step, before, after),
    )
    return False


def _refit(student: Network, teacher: Network, views: Views) -> None:
    """Solves for the weights, with as many views as memory may hold of one layer."""
    least, most = _REFIT_VIEWS
    size = _largest_layer(teacher, views.sample(1)[0])
    batches = views.sample(min(max(_REFIT_BYTES // size, least), most))
    try:
        with tqdm(unit="layer", desc="refit", disable=None) as bar:

            def progress(name: str) -> None:
                bar.update()

            solve_layers(student, teacher, batches, progress=progress)
    except ValueError as error:
        raise UserError(f"refit failed: {error}") from error


@torch.no_grad()
def _largest_layer(model: nn.Module, views: Tensor) -> int:
    """Returns the bytes that a convolution takes and gives for one view, at most."""
    sizes = [1]

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append((inputs[0].nbytes + output.nbytes) // len(views))

    kinds = (nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    model(views)
    for handle in hooks:
        handle.remove()
    return max(sizes)


@torch.no_grad()
def _distance(student: Network, teacher: Network, batches: Sequence[Tensor]) -> float:
    with _giving_logits(student, teacher):
        pairs = [(student(x), teacher(x)) for x in batches]
    return float(np.mean([_loss_of(teacher, 1.0)(s, t).item() for s, t in pairs]))


def _loss_of(
    teacher: Network, temperature: float = TEMPERATURE
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the divergence of logits; with "sigmoid", each class is, or is not."""
    if teacher.spec.head_activation != "sigmoid":
        return lambda s, t: divergence(s, t, temperature)
    return lambda s, t: divergence(_or_not(s), _or_not(t), temperature)


def _or_not(x: Tensor) -> Tensor:
    return torch.stack([x, torch.zeros_like(x)], dim=-1)


@contextmanager
def _giving_logits(*networks: Network) -> Iterator[None]:
    """Lets networks in evaluation give logits, whose gradient does not vanish, as in training."""
    changed = [n for n in networks if n.spec.head_activation != "none"]
    owners: list[Any] = [n if isinstance(n, ExternalNetwork) else n.head for n in changed]
    kept = [owner.activation for owner in owners]
    try:
        for owner in owners:
            owner.activation = lambda x: x
        yield
    finally:
        for owner, activation in zip(owners, kept, strict=True):
            owner.activation = activation


def _distill(
    student: Network,
    teacher: Network,
    views: Iterable[Tensor],
    steps: int,
    lr: float,
    fixed_norms: bool,
) -> None:
    with tqdm(total=steps, unit="step", disable=None) as bar:

        def progress(step: int, value: float) -> None:
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            bar.update()

        try:
            loss = _loss_of(teacher)
            with _giving_logits(student, teacher):
                distill(
                    student, teacher, views, steps,
                    lr=lr, fixed_norms=fixed_norms, loss=loss, progress=progress,
                )  # fmt: skip
        except ValueError as error:
            raise UserError(f"distillation with lr {lr:g} failed: {error}") from error
    if not fixed_norms:
        measure_statistics(student, views)


def _milliseconds(networks: Sequence[nn.Module], clip: Tensor, precision: str) -> tuple[float, ...]:
    """Returns the median time of one view for each network; they run in turn."""
    runs = [Evaluation(for_inference(n, precision), clip.device, precision) for n in networks]
    times = np.zeros((_WARM_UP + _ROUNDS, len(runs)))
    with torch.inference_mode():
        for row in times:
            for number, run in enumerate(runs):
                start = time.perf_counter()
                run(clip)
                if clip.device.type == "cuda":
                    torch.cuda.synchronize(clip.device)
                row[number] = 1000 * (time.perf_counter() - start)
    return tuple(np.median(times[_WARM_UP:], axis=0).tolist())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, threads: {torch.get_num_threads()}"
