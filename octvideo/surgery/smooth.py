"""Which channels of a trained network lose least at half the resolution.

The first channels, as in the paper, are right for a network that is trained with its octaves. In a
network that was trained without, some channels vary slowly over the image and others do not.
Halving a channel changes what the convolutions behind it take by x - upsample(pool(x)), times
their weights: the channels with the least of this become the low ones.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from octvideo.layers.layout import Layout, of_channels
from octvideo.layers.octavize import in_mode
from octvideo.layers.resample import pool, upsample
from octvideo.surgery.flow import Flow, Tie, is_depthwise
from octvideo.surgery.tracing import Conv, Example, arguments


def choose_smooth(
    model: nn.Module, flow: Flow, low: dict[str, Layout], batches: Iterable[Example]
) -> dict[str, Layout]:
    """Returns layouts with as many low channels as ``low`` has, for the smoothest ones.

    Channels that are tied by sums and gates are chosen together, those of groups in each group.
    Where maps are joined with others, or cut, the first channels stay the low ones.

    Args:
        model: the vanilla network; its mode and its statistics stay as they are.
        low: the layout of the output of each convolution that makes low channels.
        batches: inputs of the network, as ``example`` of ``octavize``; labels are not needed.
    """
    scores = _scores(model, flow, batches)
    chosen = {}
    for name, layout in low.items():
        tie = next(flow.tie(call) for call in flow.convs if call.name == name)
        score = scores.get(id(tie))
        if score is None or score.numel() != layout.total or tie.whole > 1 or tie.is_part:
            chosen[name] = layout
            continue
        by_group = score.view(tie.groups, -1)
        best = by_group.argsort(dim=1)[:, : layout.num_low // tie.groups]
        first = torch.arange(tie.groups)[:, None] * by_group.shape[1]
        chosen[name] = of_channels(layout.total, (best + first).flatten().tolist())
    return chosen


@torch.no_grad()
def _scores(model: nn.Module, flow: Flow, batches: Iterable[Example]) -> dict[int, Tensor]:
    """Returns by the id of each tie how much halving each of its channels changes behind it."""
    ties: dict[str, Tie] = {}
    for call in flow.convs:
        sources = [source for source in call.inputs if source is not None]
        if len(sources) == 1:
            ties[call.name] = flow.tie(sources[0])
    scores: dict[int, Tensor] = {}

    def measure(name: str, conv: Conv) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            lost = (x - upsample(pool(x), x.shape[-2:])).float().square()
            energy = lost.mean([0, *range(2, x.ndim)]).cpu() * _sensitivity(conv).cpu()
            tie = id(ties[name])
            if tie not in scores:
                scores[tie] = energy
            elif scores[tie].shape == energy.shape:
                scores[tie] = scores[tie] + energy

        return hook

    with ExitStack() as hooks, in_mode(model):
        for name, module in model.named_modules():
            if name in ties and isinstance(module, (nn.Conv2d, nn.Conv3d)):
                handle = module.register_forward_pre_hook(measure(name, module))
                hooks.callback(handle.remove)
        for batch in batches:
            args, kwargs = arguments(batch)
            model(*args, **kwargs)
    return scores


def _sensitivity(conv: Conv) -> Tensor:
    """Returns the squared weights that each input channel meets."""
    weight = conv.weight.detach().float().square()
    if is_depthwise(conv):
        return weight.flatten(1).sum(1).view(conv.in_channels, -1).sum(1)
    by_column = weight.flatten(2).sum(2).view(conv.groups, -1, weight.shape[1]).sum(1)
    return by_column.flatten()
