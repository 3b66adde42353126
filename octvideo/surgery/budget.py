"""Which layers stay vanilla, where a budget of multiply-adds leaves a choice.

Maps that share their channels (see ``Flow``) become octave together. Each such group is measured
alone: how far it moves the trained network's answers, and how many multiply-adds it saves. From the
network with all groups octave, those that cost most for what they save become vanilla again, one
after another, as long as the budget lasts.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from octvideo.surgery.flow import Flow
from octvideo.surgery.planning import Plan
from octvideo.surgery.report import summary
from octvideo.surgery.tracing import Example, arguments
from octvideo.surgery.tuning import divergence

Make = Callable[[Plan], nn.Module]


def keep_to_budget(
    model: nn.Module,
    flow: Flow,
    chosen: Plan,
    budget: float,
    example: Example,
    batches: Sequence[Example],
    make: Make,
) -> Plan:
    """Returns a plan of at most ``budget`` times the multiply-adds, with fewer octave layers.

    Args:
        chosen: the plan with all layers octave that may be.
        batches: inputs of the trained network; its answers are logits (N, K).
        make: builds the octave network of a plan, from a copy.

    Raises:
        ValueError: all layers together do not save as much.
    """
    full = summary(make(chosen), example).ratio
    if full > budget:
        raise ValueError(
            f"budget {budget:g} cannot be met: with all layers octave, {full:.3f} of the "
            "multiply-adds are left. A larger alpha saves more"
        )
    groups: dict[int, list[str]] = {}
    for call in flow.convs:
        if call.name in chosen.low:
            members = groups.setdefault(id(flow.tie(call)), [])
            if call.name not in members:
                members.append(call.name)
    with torch.no_grad():
        want = [_answer(model, batch) for batch in batches]
    price: dict[int, float] = {}
    for group, names in groups.items():
        octave = make(_without(chosen, [name for name in chosen.low if name not in names]))
        saved = 1 - summary(octave, example).ratio
        with torch.no_grad():
            lost = sum(
                float(divergence(_answer(octave, batch), answer, 1.0))
                for batch, answer in zip(batches, want, strict=True)
            )
        price[group] = lost / max(saved, 1e-9)
    for group in sorted(price, key=price.__getitem__, reverse=True):
        fewer = _without(chosen, groups[group])
        if fewer.low and summary(make(fewer), example).ratio <= budget:
            chosen = fewer
    return chosen


def _answer(model: nn.Module, batch: Example) -> torch.Tensor:
    args, kwargs = arguments(batch)
    answer: torch.Tensor = model.eval()(*args, **kwargs)
    return answer


def _without(chosen: Plan, names: Sequence[str]) -> Plan:
    """Returns a plan in which these convolutions make no low channels."""
    fewer = copy.copy(chosen)
    fewer.low = {name: low for name, low in chosen.low.items() if name not in names}
    fewer.reasons = {**chosen.reasons, **dict.fromkeys(names, "spared: the budget allows it")}
    return fewer
