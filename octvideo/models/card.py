"""The page that people see of a shared network: what is known of it, and nothing else."""

import json
import math
import re
from collections.abc import Iterable, Mapping

from octvideo.models.classifier import Network
from octvideo.utils.complexity import count
from octvideo.utils.plain import to_plain

_SHOWN = 100  # names of classes
_USE = """```python
import octvideo

model = octvideo.from_pretrained("FOLDER_OR_REPOSITORY")
print(octvideo.predict("{file}", model))
```"""


def model_card(
    network: Network, title: str, licence: str, dataset: str, metrics: Mapping[str, float | str]
) -> str:
    """Returns the README.md of a network: Markdown, with the Hub's metadata before it.

    dataset: what ``metrics`` were measured on. Both are shown as they are given.
    """
    spec = network.spec
    channels = getattr(spec, "input_channels", 3)
    time = () if spec.is_image else (spec.num_frames,)
    shape = (1, channels, *time, spec.crop_size, spec.crop_size)
    cost = count(network, shape)
    facts = {
        "network": f"`{title}`",
        "octave alpha": f"{spec.octave.alpha:g}" + ("" if spec.octave.alpha else " (vanilla)"),
        "classes": spec.num_classes,
        "parameters": f"{cost.params / 1e6:.2f} M",
        f"multiply-adds of one input {'x'.join(map(str, shape[1:]))}": f"{cost.macs / 1e9:.2f} G",
        "licence": licence or "not stated",
    }
    protocol = getattr(network, "protocol", None)
    parts = [
        _metadata(title, spec.is_image, licence, dataset, metrics),
        f"# {title}\n\nA network of octvideo, which knows how it looks at a file.",
        _USE.format(file="image.jpg" if spec.is_image else "clip.mp4"),
        _table("", facts),
        "## Accuracy\n\n" + _accuracy(dataset, metrics),
        *([_table("## How it looks at a file", to_plain(protocol))] if protocol else []),
    ]
    if names := getattr(network, "class_names", None):
        parts.append("## Classes\n\n" + _names(names))
    return "\n\n".join(parts) + "\n"


def _metadata(
    title: str, is_image: bool, licence: str, dataset: str, metrics: Mapping[str, float | str]
) -> str:
    """Returns what the Hub reads. Texts and lists are JSON, which YAML includes."""
    task = f"{'image' if is_image else 'video'}-classification"
    lines = ["---", "library_name: octvideo", f"pipeline_tag: {task}"]
    if licence:
        lines += [f"license: {json.dumps(licence.lower())}"]
    lines += ["tags:", "- octave-convolution"]
    if results := _results(metrics):
        # Not said to be verified: the Hub then shows the figures as the author's own.
        about = {"name": dataset or "not stated", "type": _identifier(dataset) or "other"}
        index = {"task": {"type": task}, "dataset": about, "metrics": results}
        lines += [f"model-index: {json.dumps([{'name': title, 'results': [index]}])}"]
    return "\n".join([*lines, "---"])


def _results(metrics: Mapping[str, float | str]) -> list[dict[str, float | str]]:
    """Returns the metrics that are numbers; the Hub calls top-1 and top-5 accuracy too."""
    return [
        {
            "type": "accuracy" if name.lower().startswith("top") else _identifier(name),
            "name": name,
            "value": float(value),
        }
        for name, value in metrics.items()
        if not isinstance(value, str) and math.isfinite(value)
    ]


def _identifier(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def _accuracy(dataset: str, metrics: Mapping[str, float | str]) -> str:
    if not metrics:
        return "Nothing was stated when these files were written."
    return _table(f"On {dataset or 'a data set that was not named'}:", metrics)


def _table(heading: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    table = "\n".join(["| | |", "|---|---|", *lines])
    return f"{heading}\n\n{table}" if heading else table


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _names(names: Iterable[str]) -> str:
    names = [_cell(name) for name in names]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {more} more (config.json)" if more > 0 else "")
