"""Networks of other libraries, octavized: what works, what it saves, where values are merged.

    python -m studies.octavize_bench --lines bench.jsonl              one JSON line a network
    python -m studies.octavize_bench --lines bench.jsonl --table      a Markdown table of them

The checks of one network, octavized at alpha 0.25 for 224 x 224 pixels:

    loads       the vanilla state, strictly
    forward     finite, of the vanilla shapes
    gradients   of every parameter that has one in the vanilla network
    copies      pickle and deepcopy give the same network
    alpha 0     is bit-equal to the vanilla network
    channels    on constant images without borders, where an octave loses nothing, it gives what the
                vanilla network gives: each weight meets the channels that it was made for
    compile     torch.compile(fullgraph=True) gives the same
    export      torch.export gives the same
"""

import argparse
import contextlib
import copy
import io
import logging
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from octvideo import octavize, summary
from octvideo.layers import OctConv2d, OctConv3d
from octvideo.models.libraries import FOREIGN_ERRORS
from octvideo.surgery.tracing import arguments
from octvideo.utils.errors import first_line
from octvideo.utils.markdown import markdown_table
from studies.lines import Line, append_line, read_lines
from studies.octavize_networks import SMALL, Network, networks

ALPHA = 0.25
SECONDS = 60  # of the processor, after which no further check of a network begins
CHEAP = ("loads", "forward", "gradients", "copies", "alpha 0", "channels")
RECORDED = ("compile", "export")
LATE = f"not run within {SECONDS} s"
ERRORS = (*FOREIGN_ERRORS, pickle.PicklingError, OSError)


def examine(network: Network, recorded: bool = True) -> Line:
    """Returns the line of a network: its checks ("ok", or what went wrong) and its numbers.

    Args:
        recorded: compile and export it, too.
    """
    torch.manual_seed(0)
    began = time.process_time()
    line: Line = {"network": network.name}
    vanilla = network.build(network.full)
    example = network.inputs(1, network.full)
    started = time.process_time()
    octave = octavize(vanilla, ALPHA, example=example)
    line["seconds"] = round(time.process_time() - started, 2)
    report = summary(octave, example)
    layers = [m for m in octave.modules() if isinstance(m, (OctConv2d, OctConv3d))]
    line |= {"ratio": round(report.ratio, 3), "octave": len(layers), "layers": len(report.rows)}
    line["merges"] = dict(Counter(merge.function for merge in report.merges))
    if not network.is_examined:
        return line
    recorded &= bool(layers)
    side = _smallest(network)
    if side != network.full:
        del octave
        vanilla = network.build(side)
        octave = octavize(vanilla, ALPHA, example=_small_example(network, vanilla, side))
    line["side"] = side
    checks = _Checks(vanilla, octave, network, side)
    for check in CHEAP + (RECORDED if recorded else ()):
        is_late = time.process_time() - began > SECONDS
        line[check] = LATE if is_late else checks.result(check)
    return line


def _smallest(network: Network) -> int:
    model = network.build(SMALL).eval()
    try:
        with torch.no_grad():
            call(model, network.inputs(1, SMALL))
    except (RuntimeError, ValueError, AssertionError):
        return network.full
    return SMALL


def _small_example(network: Network, vanilla: nn.Module, side: int) -> Any:
    """Returns an input of the full size, which decides what is octave, if the network takes it."""
    try:
        with torch.no_grad():
            call(copy.deepcopy(vanilla).to("meta").eval(), _meta(network.inputs(1, network.full)))
    except (RuntimeError, ValueError, AssertionError, NotImplementedError):
        return network.inputs(1, side)
    return network.inputs(1, network.full)


def _meta(x: Any) -> Any:
    return [t.to("meta") for t in x] if isinstance(x, list) else x.to("meta")


def call(model: nn.Module, x: Any) -> list[Tensor]:
    """Returns the tensors that a network gives."""
    args, kwargs = arguments([*x] if isinstance(x, list) else x)  # some write into the list
    return [t for t in tree_leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]


class _Checks:
    def __init__(self, vanilla: nn.Module, octave: nn.Module, network: Network, side: int) -> None:
        self.vanilla, self.octave = vanilla.eval(), octave.eval()
        _randomise(self.vanilla)
        self.octave.load_state_dict(self.vanilla.state_dict())
        self.x = network.inputs(2, side)

    def result(self, name: str) -> str:
        """Returns "ok", or what went wrong: a bench must survive every network."""
        check: Callable[[], str | None] = getattr(self, name.replace(" ", "_"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return check() or "ok"
        except ERRORS as error:  # what code of others raises is the result
            return f"{type(error).__name__}: {first_line(error)}"

    @torch.no_grad()
    def run(self, model: nn.Module) -> list[Tensor]:
        torch.manual_seed(1)
        return call(model, self.x)

    def loads(self) -> str | None:
        keys = list(self.vanilla.state_dict()) == list(self.octave.state_dict())
        self.octave.load_state_dict(self.vanilla.state_dict(), strict=True)
        return None if keys else "other keys"

    def forward(self) -> str | None:
        got, want = self.run(self.octave), self.run(self.vanilla)
        if [t.shape for t in got] != [t.shape for t in want]:
            return f"shapes {[tuple(t.shape) for t in got]}"
        return None if all(t.isfinite().all() for t in got) else "not finite"

    def gradients(self) -> str | None:
        missing = self._trained(self.octave) ^ self._trained(self.vanilla)
        return f"differ: {sorted(missing)[:3]}" if missing else None

    def _trained(self, model: nn.Module) -> set[str]:
        """Returns the names of the parameters with a gradient in training."""
        model = copy.deepcopy(model).train()
        torch.manual_seed(1)
        for module in model.modules():  # stochastic depth would skip layers at random
            for name in ("drop_prob", "p"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        sum(t.square().mean() for t in call(model, self.x) if t.is_floating_point()).backward()  # type: ignore[union-attr]
        return {name for name, p in model.named_parameters() if p.grad is not None}

    def copies(self) -> str | None:
        want = self.run(self.octave)
        if not _equal(self.run(copy.deepcopy(self.octave)), want):
            return "deepcopy differs"
        stored = io.BytesIO()
        try:
            pickle.dump(self.octave, stored)
        except ERRORS:
            with contextlib.suppress(*ERRORS):
                pickle.dump(self.vanilla, io.BytesIO())
                return "pickle fails"
            return "vanilla neither"
        stored.seek(0)
        return None if _equal(self.run(pickle.load(stored)), want) else "pickle differs"

    def alpha_0(self) -> str | None:
        same = _equal(self.run(octavize(self.vanilla, 0.0)), self.run(self.vanilla))
        return None if same else "differs"

    @torch.no_grad()
    def channels(self) -> str | None:
        level = torch.randn(2, 3, *[1] * (self._first.ndim - 2))
        x = [level.expand_as(t) for t in self.x] if isinstance(self.x, list) else (
            level.expand_as(self.x)
        )  # fmt: skip
        results, is_constant = [], True
        for model in (copy.deepcopy(self.vanilla), copy.deepcopy(self.octave)):
            with _without_borders(model) as constant:
                results.append(call(model, x))
            is_constant &= constant[0]
        if not is_constant:
            return "-"
        for want, got in zip(*results, strict=True):
            error = (got - want).abs().max() / want.abs().max().clamp(min=1e-9)
            if not error < 1e-3:
                return f"differ by {error:.2g}"
        return None

    @property
    def _first(self) -> Tensor:
        return self.x[0] if isinstance(self.x, list) else self.x

    def compile(self) -> str | None:
        return self._recorded(lambda model: torch.compile(model, fullgraph=True, backend="eager"))

    def export(self) -> str | None:
        def export(model: nn.Module) -> Any:
            args, kwargs = arguments([*self.x] if isinstance(self.x, list) else self.x)
            return torch.export.export(model, args, kwargs).module()

        return self._recorded(export)

    def _recorded(self, record: Callable[[nn.Module], Any]) -> str | None:
        torch._dynamo.reset()
        try:
            got = self.run(record(self.octave))
        except ERRORS:
            if self._is_recordable(record):
                raise
            return "vanilla neither"
        want = self.run(self.octave)
        return None if all(_close(a, b) for a, b in zip(got, want, strict=True)) else "differs"

    def _is_recordable(self, record: Callable[[nn.Module], Any]) -> bool:
        """Whether the vanilla network can be compiled or exported."""
        torch._dynamo.reset()
        try:
            self.run(record(self.vanilla))
        except ERRORS:
            return False
        return True


def _close(got: Tensor, want: Tensor) -> bool:
    return bool((got - want).abs().max() <= 1e-4 * want.abs().max())


def _equal(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Gives each channel of a batch norm other values, so that mixed up channels show."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                module.weight.mul_(torch.empty_like(module.weight).uniform_(0.7, 1.3))
                module.bias.add_(torch.empty_like(module.bias).normal_(0, 0.1))


@contextlib.contextmanager
def _without_borders(model: nn.Module) -> Iterator[list[bool]]:
    """Makes convolutions repeat borders, and averages omit them.

    Yields a list of one value, which becomes False when a map is not constant.
    """
    is_constant = [True]
    kinds = (nn.Conv2d, nn.Conv3d, OctConv2d, OctConv3d)

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        for part in x if not isinstance(x, Tensor) else (x,):
            if part is not None:
                flat = part.flatten(2)
                spread = (flat.amax(-1) - flat.amin(-1)).max()
                is_constant[0] &= bool(spread <= 1e-3 * flat.abs().max())

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, kinds):
                if any(module.padding) if not isinstance(module.padding, str) else True:
                    module.padding_mode = "replicate"
                stack.callback(module.register_forward_pre_hook(look).remove)
            if isinstance(module, (nn.AvgPool2d, nn.AvgPool3d)):
                module.count_include_pad = False
        stack.enter_context(_NoBorders())
        yield is_constant


class _NoBorders(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (F.avg_pool2d, F.avg_pool3d):
            args, kwargs = args[:5], {**kwargs, "count_include_pad": False}
        if func is F.pad and len(args[1]) == 2 * (args[0].dim() - 2):  # of space, and time
            args, kwargs = args[:2], {"mode": "replicate"}
        return func(*args, **kwargs)


def is_good(result: object) -> bool:
    """Returns whether a check passed, or cannot be made."""
    return result in ("ok", "-", "vanilla neither")


def table(lines: list[Line]) -> str:
    """Returns the Markdown table."""
    checks = (*CHEAP, *RECORDED)
    head = ["network", "ratio", "octave", "merges", "s", *checks]
    rows = []
    for line in lines:
        merges = ", ".join(f"{k} {n}" for k, n in line["merges"].items())
        octave = f"{line['octave']} of {line['layers']}" if line["octave"] else "unchanged"
        rows.append(
            [line["network"], f"{line['ratio']:.3f}", octave, merges, f"{line['seconds']:.2f}"]
            + [_cell(line.get(check)) for check in checks]
        )
    return markdown_table(head, rows)


def counts(lines: list[Line]) -> str:
    """Returns how many networks were examined, of which libraries, and what failed."""
    libraries = Counter(line["network"].partition("/")[0] for line in lines)
    done = [{check for check in (*CHEAP, *RECORDED) if _cell(line.get(check))} for line in lines]
    octave = [checks for line, checks in zip(lines, done, strict=True) if line["octave"]]
    whole = sum(checks == {*CHEAP, *RECORDED} for checks in octave)
    failed = [
        f"{line['network']}, {check}"
        for line, checks in zip(lines, done, strict=True)
        for check in sorted(checks)
        if not is_good(line[check])
    ]
    return (
        f"{len(lines)} networks ({', '.join(f'{k} {n}' for k, n in libraries.items())}). "
        f"{len(octave)} become octave, and all checks were made of {whole} of them; "
        f"{len(lines) - len(octave)} stay vanilla. "
        f"Failed: {'; '.join(failed) or 'nothing'}."
    )


def _cell(result: str | None) -> str:
    if result in (None, LATE):
        return ""
    return str(result) if is_good(result) else "**no**"


def main() -> None:
    """Runs the bench, or prints the table of its lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--table", action="store_true", help="print the table of the file")
    parser.add_argument("--cheap", action="store_true", help="without compile and export")
    parser.add_argument("--only", nargs="*", default=["*"], help="names or patterns of networks")
    args = parser.parse_args()
    lines = read_lines(args.lines, missing_ok=not args.table)
    if args.table:
        print(counts(lines), "", table(lines), sep="\n")
        return
    logging.getLogger("octvideo").setLevel(logging.ERROR)
    done = {line["network"] for line in lines}
    for network in sorted(networks(), key=lambda n: not n.is_examined):
        asked = any(fnmatchcase(network.name, pattern) for pattern in args.only)
        if asked and network.name not in done:
            try:
                line = examine(network, recorded=not args.cheap)
            except ERRORS as error:
                print(network.name, "FAILS:", type(error).__name__, str(error)[:300], flush=True)
                continue
            append_line(args.lines, line)
            bad = {k: line[k] for k in (*CHEAP, *RECORDED) if not is_good(line.get(k, "ok"))}
            print(network.name, line["ratio"], line["merges"] or "", bad or "", flush=True)


if __name__ == "__main__":
    main()
