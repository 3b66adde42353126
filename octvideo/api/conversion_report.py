"""What a conversion to octave cost: multiply-adds, time, and agreement with the vanilla network."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

from octvideo.surgery import Summary
from octvideo.utils.console import printable
from octvideo.utils.markdown import markdown_table


@dataclass(frozen=True)
class Agreement:
    """How far an octave network answers as the vanilla one does, on the files that measure it.

    Attributes:
        step: after which it was measured: "octavize", "refit", "calibrate" or "distill".
        top1_views, top1_files: the share of views, and of files (by the scores of all their views
            together), whose likeliest class is the vanilla network's; in [0, 1].
        kl: the mean over views of the Kullback-Leibler divergence KL(vanilla || octave), in nats.
    """

    step: str
    top1_views: float
    top1_files: float
    kl: float


@dataclass(frozen=True)
class StageCost:
    """The multiply-adds of one view in a part of the network, before and after."""

    name: str
    layers: int
    octave_layers: int
    vanilla_macs: int
    macs: int


@dataclass(frozen=True)
class ConversionReport:
    """The report of `convert_to_octave`, as plain values: ``to_json``, and ``to_markdown`` to read.

    Attributes:
        vanilla_macs, macs: multiply-adds of one view, before and after; ``stages`` by stage.
        merges: where octave values become one tensor: function, module, and how often.
        vanilla_ms, octave_ms: milliseconds for one view, the median of interleaved runs on
            ``device``.
        learned, measured: files that the network learned from, and that agreement was measured on.
        is_held_out: whether these are different files.
        skipped: files that could not be read, and why.
        views: how many views of the measured files were compared.
        agreement: after each step, in order.
        undone: steps that did harm on the files that they saw, and were undone.
        learning_rate: of ``steps`` steps of distillation.
        command: how it was made.
        versions: of octvideo, Python and torch.
    """

    source: str
    alpha: float
    choose: str
    vanilla_macs: int
    macs: int
    stages: tuple[StageCost, ...]
    merges: tuple[tuple[str, str, int], ...]
    vanilla_ms: float
    octave_ms: float
    device: str
    learned: tuple[str, ...]
    measured: tuple[str, ...]
    is_held_out: bool
    skipped: tuple[tuple[str, str], ...]
    views: int
    agreement: tuple[Agreement, ...]
    undone: tuple[str, ...]
    steps: int
    learning_rate: float
    command: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Returns everything as plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Returns everything as JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_markdown(self) -> str:
        """Returns the report to read."""
        skipped = [f"* `{printable(path)}`: {printable(why)}" for path, why in self.skipped]
        parts = [
            f"# {_code(self.source)} as an octave network, alpha {self.alpha:g}",
            f"Low channels: {_CHOICES[self.choose]}.",
            "## Multiply-adds of one view",
            markdown_table(_COSTS, [*map(_cost, self.stages), _cost(self._total())]),
            self._merges(),
            "## Time of one view",
            markdown_table(
                ("device", "vanilla, ms", "octave, ms", "octave / vanilla"),
                [
                    (
                        self.device,
                        *_numbers(".2f", self.vanilla_ms, self.octave_ms),
                        f"{self.speed:.3f}",
                    )
                ],
            ),
            "## Agreement with the vanilla network",
            self._files(),
            markdown_table(_AGREEMENT, [_agreed(step) for step in self.agreement]),
            "## Files that could not be read\n\n" + "\n".join(skipped) if skipped else "",
            "## How it was made",
            f"    {printable(self.command)}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    @property
    def speed(self) -> float:
        """The time of a view in place of the vanilla network's 1."""
        return self.octave_ms / self.vanilla_ms

    def _total(self) -> StageCost:
        return StageCost(
            "total",
            sum(stage.layers for stage in self.stages),
            sum(stage.octave_layers for stage in self.stages),
            self.vanilla_macs,
            self.macs,
        )

    def _merges(self) -> str:
        if not self.merges:
            return "Octave values are merged only where layers leave the octave."
        rows = [(_code(f), _code(module or "the network"), str(n)) for f, module, n in self.merges]
        return "Octave values are merged by:\n\n" + markdown_table(
            ("function", "in", "times"), rows
        )

    def _files(self) -> str:
        learned, measured = len(self.learned), len(self.measured)
        if self.is_held_out:
            how = f"measured on {_count(measured, 'file')} held out from all steps"
        else:
            how = "measured on the file that it learned from, because there was only one"
        text = f"Learned from {_count(learned, 'file')}; {how} ({_count(self.views, 'view')})."
        if self.undone:
            text += (
                f" Undone, because it did harm on the files that it saw: {', '.join(self.undone)}. "
                "More files may help."
            )
        if self.steps:
            text += f" Distillation: {self.steps} steps, learning rate {self.learning_rate:g}."
        return text


_CHOICES = {
    "smooth": "those that lose least at half the resolution, as measured on the files",
    "first": "the first ones of each layer",
}
_COSTS = ("stage", "octave layers", "GMACs before", "after", "ratio")
_AGREEMENT = ("after", "top-1, views", "top-1, files", "KL divergence")


def stages_of(summary: Summary) -> tuple[StageCost, ...]:
    """Returns the cost of each stage of a network."""
    return tuple(
        StageCost(
            name,
            len(rows),
            sum(row.is_octave for row in rows),
            sum(row.vanilla_macs for row in rows),
            sum(row.macs for row in rows),
        )
        for name, rows in summary.stages().items()
    )


def merges_of(summary: Summary) -> tuple[tuple[str, str, int], ...]:
    """Returns where a network merges octave values: function, module, and how often."""
    counts = Counter(summary.merges)
    return tuple((merge.function, merge.module, times) for merge, times in counts.items())


def _cost(stage: StageCost) -> tuple[str, ...]:
    ratio = f"{stage.macs / stage.vanilla_macs:.3f}" if stage.vanilla_macs else "-"
    gmacs = _numbers(".4f", stage.vanilla_macs / 1e9, stage.macs / 1e9)
    return (stage.name, f"{stage.octave_layers} of {stage.layers}", *gmacs, ratio)


def _agreed(step: Agreement) -> tuple[str, ...]:
    shares = (f"{100 * share:.1f} %" for share in (step.top1_views, step.top1_files))
    return (step.step, *shares, f"{step.kl:.4f}")


def _numbers(form: str, *values: float) -> tuple[str, ...]:
    return tuple(format(value, form) for value in values)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _code(text: str) -> str:
    return f"`{printable(text)}`"
