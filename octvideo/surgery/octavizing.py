"""Makes any network of convolutions octave."""

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from octvideo.layers import (
    OctConv2d,
    OctConv3d,
    OctTensor,
    Placement,
    PlacementError,
)
from octvideo.layers import octavize as swap_layers
from octvideo.layers.layout import Runs, spread
from octvideo.layers.oct_tensor import MergeError, merges_to
from octvideo.surgery.budget import keep_to_budget
from octvideo.surgery.flow import Flow
from octvideo.surgery.planning import Alpha, Choice, Plan, plan
from octvideo.surgery.report import RECORD, Merge, OctaveRecord
from octvideo.surgery.smooth import choose_smooth
from octvideo.surgery.tracing import CurrentModule, Example, run, tensors_in, trace

logger = logging.getLogger("octvideo")

Where = Choice | Placement
_SPARE = "with exclude="


def octavize(
    model: nn.Module,
    alpha: Alpha = 0.25,
    *,
    example: Example | None = None,
    placement: Where = "default",
    exclude: Choice = (),
    divisor: int = 1,
    pool_stride: bool | None = None,
    choose: str = "first",
    batches: Iterable[Example] = (),
    budget: float | None = None,
    strict: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Makes a network of 2D or 3D convolutions octave ("Drop an Octave", arXiv 1904.05049).

    Part of the channels of each chosen convolution are kept at half the spatial resolution. The
    parameters keep their names, shapes and order, so a state of the vanilla network loads with
    ``strict=True``, and gives what the paper's equation makes of these weights. The network runs
    once with the example, on the meta device if it can, to see what flows where.

    Args:
        model: any module, trained or not, in any mode. Its code does not change: what it does
            between its convolutions acts on octave values, or gets one merged tensor.
        alpha: the share of low channels, in [0, 1); or a function from the name of a convolution
            to its share.
        example: an input: a tensor (N, C, [T,] H, W), a list that is one argument, a tuple of
            arguments, or a dict of named ones. None: 224 x 224 pixels, and 16 frames, for the
            first convolution that the model has. Sizes decide what stays plain, so take those that
            the network is for; it takes others afterwards.
        placement: "default": all but the first convolution and the last resolution, as in the
            authors' networks; "end": all but the first convolution and those behind which none
            follows; names or patterns (as for ``fnmatch``) of convolutions, or a function of a
            name, for those that make low channels; or what ``low_channels`` returns for another
            network of the same architecture.
        exclude: names, patterns or a function, for convolutions that make no low channels.
        divisor: the low channels are rounded to a multiple of it.
        pool_stride: where the octave ends, a strided convolution behind it pools and has stride 1,
            as in the authors' code. None: in networks of images, but not in those of videos.
        choose: which channels are low: "first", as in the paper, for a network that is trained
            afterwards; "smooth" for a trained one: those that lose least.
        batches: for "smooth" and ``budget``: inputs like ``example`` to measure with; some ten
            images or clips do.
        budget: the share of multiply-adds that may be left, such as 0.7: of a trained network that
            returns logits, the layers that lose most for what they save stay vanilla.
        strict: raise where a function of the network has to merge an octave value.
        inplace: change ``model`` itself, not a copy.

    Returns:
        The octave network; see ``octvideo.summary`` for what became of each layer. Without a
        convolution to gain from it is the vanilla network, and a warning says so.

    Raises:
        ValueError: alpha or the placement is wrong, the network does not take the example, or it
            is octave already.
        MergeError: with ``strict``, a value would be merged; the message names function and module.
    """
    batches = [*batches]
    _check_arguments(model, alpha, choose, batches, budget)
    model = model if inplace else copy.deepcopy(model)
    if alpha == 0:
        return model
    example = example_for(model) if example is None else example
    seen = _Seen()
    if isinstance(placement, Placement):
        swap_layers(model, placement, example, seen.run)
        return _finished(model, Plan(), seen, strict)
    flow = Flow(trace(model, example))
    chosen = plan(flow, alpha, placement, divisor, pool_stride, exclude)
    if choose == "smooth":
        chosen.low = choose_smooth(model, flow, chosen.low, batches)
    if budget is not None:
        chosen = keep_to_budget(
            model, flow, chosen, budget, example, batches, lambda p: _swapped(model, p, example)
        )
    _swap_what_can_be(model, flow, chosen, example, seen)
    return _finished(model, chosen, seen, strict)


def _check_arguments(
    model: nn.Module, alpha: Alpha, choose: str, batches: Sequence[Example], budget: float | None
) -> None:
    if not callable(alpha) and not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    if choose not in ("first", "smooth"):
        raise ValueError(f"choose must be 'first' or 'smooth', got {choose!r}")
    if not batches and (choose == "smooth" or budget is not None):
        raise ValueError("choose='smooth' and budget measure: give batches=, inputs of the network")
    if any(isinstance(module, (OctConv2d, OctConv3d)) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has octave convolutions already")


def _swap_what_can_be(
    model: nn.Module, flow: Flow, chosen: Plan, example: Example, seen: "_Seen"
) -> None:
    """Swaps the layers of the plan; one whose input does not allow it leaves the plan.

    Raises:
        ValueError: with octave values the network fails, or runs other layers.
    """
    vanilla = [call.name for call in flow.calls if call.layer is not None]
    while chosen.low:
        try:
            swap_layers(model, chosen.placement(), example, seen.run)
            break
        except PlacementError as error:  # what only its input shows
            if error.name not in chosen.capable:
                raise
            _leave_vanilla(chosen, error)
        except ValueError as error:
            raise ValueError(
                f"{type(model).__name__} takes the example, but not octave values inside: "
                f"{error.__cause__ or error}. Spare the convolutions before that place, {_SPARE}"
            ) from error
    kinds = (nn.Conv2d, nn.Conv3d, OctConv2d, OctConv3d)
    convs = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    layers = [name for name in seen.entered if name in convs] if chosen.low else vanilla
    for before, octave in zip_longest(vanilla, layers):
        if before != octave:
            raise ValueError(
                f"{type(model).__name__} runs {octave} with octave values where it runs {before} "
                "with tensors: perhaps isinstance(x, torch.Tensor) decides. Spare the "
                f"convolutions before it, {_SPARE}"
            )


def _swapped(model: nn.Module, chosen: Plan, example: Example) -> nn.Module:
    return swap_layers(copy.deepcopy(model), chosen.placement(), example, run)


def example_for(model: nn.Module) -> torch.Tensor:
    """Returns an input of zeros for the first convolution of a network.

    Raises:
        ValueError: it has none, so that nobody knows what it takes.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            frames = (16,) if isinstance(module, nn.Conv3d) else ()
            return torch.zeros(1, module.in_channels, *frames, 224, 224)
    raise ValueError(
        f"{type(model).__name__} has no 2D or 3D convolutions, so there is nothing to make octave"
    )


def _leave_vanilla(chosen: Plan, error: PlacementError) -> None:
    chosen.capable.discard(error.name)
    chosen.low.pop(error.name, None)
    chosen.pools.discard(error.name)
    chosen.reasons[error.name] = error.reason


class _Seen:
    """Notes in a pass where values are merged, and whether the network returns an octave one."""

    def __init__(self) -> None:
        self.merges: list[Merge] = []
        self.entered: list[str] = []  # modules, in order
        self.is_octave = False  # whether a result is

    def run(self, model: nn.Module, example: Example) -> None:
        where = CurrentModule()

        def note(function: str) -> None:
            if function == "__iter__":
                raise PlacementError(
                    where.name,
                    "it takes an octave value apart, as samples of a batch. "
                    f"Spare the convolutions before it, {_SPARE}",
                )
            self.merges.append(Merge(function, where.name))

        @contextlib.contextmanager
        def watch() -> Iterator[None]:
            self.merges.clear()
            where.entered.clear()
            with where.follow(model), merges_to(note), _functions_of_tensors(where):
                yield

        output = run(model, example, watch)
        self.entered = where.entered
        self.is_octave = any(isinstance(x, OctTensor) for x in tensors_in(output))


@contextlib.contextmanager
def _functions_of_tensors(where: CurrentModule) -> Iterator[None]:
    """Refuses octave values in autograd functions, whose own gradients would be lost."""
    usual = Function.__dict__["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, OctTensor) for x in tensors_in(args)):
            raise PlacementError(
                where.name,
                f"{cls.__name__} has a gradient of its own, and takes tensors alone. "
                f"Spare the convolutions before it, {_SPARE}",
            )
        return usual.__func__(cls, *args, **kwargs)

    setattr(Function, "apply", classmethod(apply))  # noqa: B010
    try:
        yield
    finally:
        setattr(Function, "apply", usual)  # noqa: B010


def _finished(model: nn.Module, chosen: Plan, seen: _Seen, strict: bool) -> nn.Module:
    """Checks an octave network, and lets it return tensors."""
    merges = seen.merges
    if strict and merges:
        first = merges[0]
        raise MergeError(
            f"{first.function} in {first.module or type(model).__name__} merges an octave value "
            f"({len(merges)} such places): choose another placement, or leave out strict"
        )
    if seen.is_octave:
        model.register_forward_hook(merge_outputs)
    record = OctaveRecord(reasons=chosen.reasons, merges=merges)
    setattr(model, RECORD, record)
    if not any(isinstance(module, (OctConv2d, OctConv3d)) for module in model.modules()):
        logger.warning(
            "%s stays as it is: no convolution gains from an octave%s",
            type(model).__name__,
            _commonest(chosen.reasons.values()),
        )
    return model


def _commonest(reasons: Iterable[str]) -> str:
    counts = Counter(reasons).most_common(3)
    return "" if not counts else f" ({'; '.join(f'{n} x {reason}' for reason, n in counts)})"


def merge_outputs(module: nn.Module, inputs: object, output: object) -> object:
    """Merges octave values in what a network returns; a forward hook."""
    if isinstance(output, OctTensor):
        return output.merged()
    if isinstance(output, dict):
        merged = {key: merge_outputs(module, inputs, value) for key, value in output.items()}
        return type(output)(merged)
    if isinstance(output, (list, tuple)):
        items: list[Any] = [merge_outputs(module, inputs, value) for value in output]
        is_named = hasattr(output, "_fields")  # a named tuple takes its fields one by one
        return type(output)(*items) if is_named else type(output)(items)
    return output


def low_channels(model: nn.Module) -> dict[str, Runs]:
    """Returns the low channels of an octave network, as ranges [start, stop), by convolution.

    As ``placement`` of ``octavize`` they make the same octave network of a vanilla one.
    """
    return {
        name: (module.layout or spread(module.out_channels, module.channels_out.low)).low
        for name, module in model.named_modules()
        if isinstance(module, (OctConv2d, OctConv3d))
        and module.channels_out.low
        and not module.is_depthwise
    }
