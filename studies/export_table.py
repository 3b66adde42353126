"""Exports networks in every form, and compares each file with its network in its own runtime.

    python -m studies.export_table run --lines studies/results/export.jsonl
    python -m studies.export_table table studies/results/export.jsonl

Each line of JSON is one file: network, alpha, format, input, the largest difference of a score on
one clip and on three, relative to the largest score, the operations in the graph, CPU seconds of
the export (with its check), and megabytes. Pairs that the lines have already are left out, so the
command resumes. Clips have 64x64 pixels: the graph of a network does not depend on their size.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import octvideo
from octvideo.data.transforms import normalize
from octvideo.deploy import FORMATS, open_exported
from octvideo.deploy.files import megabytes
from octvideo.deploy.form import pathways
from octvideo.deploy.openvino_core import openvino_core
from octvideo.utils.markdown import markdown_table
from studies.lines import append_line, commit, read_lines

SIZE = 64
ALPHAS = (0.0, 0.25)
INPUTS = ("clips", "frames")
BATCHES = (1, 3)
OWN = "studies.export_table:vgg"  # of another project, in the eyes of octvideo
NETWORKS: dict[str, dict[str, Any]] = {
    "c2d_r14": {},
    "i3d_r14": {},
    "i3d_r50": {},
    "c2d_nln_r50": {},
    "slowfast_4x16_r50": {"depth": 14},
    "x3d_xs": {},
    "resnet50_v2": {},
    "mobilenet_v2_100": {},
    "densenet121": {},
    OWN: {"num_frames": 1},
}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch"}


class Vgg(nn.Module):
    """A small network of images in the manner of VGG, without batch norm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU())
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


def vgg(num_classes: int = 10) -> nn.Module:
    """Returns a network that octvideo does not know."""
    return Vgg(num_classes)


def network_of(name: str, alpha: float, **options: Any) -> nn.Module:
    """Returns a network of ten classes whose scores differ, in evaluation."""
    torch.manual_seed(0)
    model = octvideo.create_model(name, 10, alpha, crop_size=SIZE, **options).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.2)
    _without_certainty(model)
    return model


@torch.no_grad()
def _without_certainty(model: nn.Module) -> None:
    """Scales the last layer so that softmax gives every class its share, which can differ."""
    spec: Any = model.spec
    frames = () if spec.is_image else (spec.num_frames,)
    layer = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    given: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: given.append(output))
    model(torch.randn(1, 3, *frames, SIZE, SIZE))
    hook.remove()
    layer.weight /= given[0].std()


def export_line(name: str, alpha: float, form: str, inputs: str, folder: Path) -> dict[str, Any]:
    """Exports a network and returns what is to be said about the file."""
    model = network_of(name, alpha, **NETWORKS.get(name, {}))
    path = folder / f"model{FORMATS[form]}"
    begin = time.process_time()
    octvideo.export(model, path, inputs=inputs, crop_size=SIZE)
    seconds = time.process_time() - begin
    return {
        "network": "own (VGG)" if name == OWN else name,
        "options": NETWORKS.get(name, {}),
        "alpha": alpha,
        "format": form,
        "inputs": inputs,
        "differences": {str(n): difference(model, path, n) for n in BATCHES},
        "nodes": operations(path),
        "seconds": round(seconds, 1),
        "megabytes": round(megabytes(path), 2),
        "runtime": f"{RUNTIMES[form]} {version(RUNTIMES[form])}",
    }


@torch.no_grad()
def difference(model: nn.Module, path: Path, batch: int) -> float:
    """Returns how far a score of the file is from the network's, relative to the largest one."""
    network = open_exported(path)
    record = replace(network.record, inputs="frames")
    pixels = torch.randint(256, record.shape(batch), dtype=torch.uint8)
    protocol = record.protocol
    clips = normalize(
        pixels.movedim(-1, 1),
        protocol.mean,
        protocol.std,
        protocol.reverse_channels,
        1 - pixels.ndim,
    )
    given = {"frames": [pixels], "clips": [clips]}.get(network.record.inputs)
    if given is None:
        given = pathways(clips, record.frame_ratio)
    want, got = model(clips), network.run(given)[0]
    return float(f"{(got - want).abs().max() / want.abs().max():.1e}")


def operations(path: Path) -> int:
    """Returns how many operations a graph has, without constants and their conversions."""
    if path.suffix == ".onnx":
        import onnx

        return len(onnx.load(path).graph.node)
    if path.suffix == ".xml":
        plain = ("Constant", "Parameter", "Result", "Convert")
        model = openvino_core(str(path)).read_model(path)
        kinds = [node.get_type_name() for node in model.get_ops()]
        return sum(kind not in plain for kind in kinds)
    return sum(node.op == "call_function" for node in torch.export.load(path).graph.nodes)


def table(lines: Path) -> str:
    """Returns the Markdown table of the lines: a row for each network and alpha."""
    groups: dict[tuple[str, float], dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for line in read_lines(lines):
        name = " ".join([line["network"], *(f"{k} {v}" for k, v in line["options"].items())])
        groups[name, line["alpha"]][line["format"], line["inputs"]] = line
    heads = ["network", "alpha"]
    heads += [f"{form}: difference, operations, s, MB" for form in FORMATS]
    rows = []
    for (name, alpha), found in groups.items():
        cells = [name, f"{alpha:g}"]
        for form in FORMATS:
            chosen = [found[form, inputs] for inputs in INPUTS if (form, inputs) in found]
            cells.append(_cell(chosen))
        rows.append(cells)
    return markdown_table(heads, rows)


def _cell(lines: Sequence[dict[str, Any]]) -> str:
    """Returns the worst difference, and the rest of the file that takes clips."""
    if not lines:
        return "not run"
    worst = max(value for line in lines for value in line["differences"].values())
    first = lines[0]
    return f"{worst:.0e}, {first['nodes']}, {first['seconds']:.0f}, {first['megabytes']:.1f}"


def run(
    lines: Path, networks: Sequence[str], formats: Sequence[str], inputs: Sequence[str]
) -> None:
    """Adds a line for each pair that is not there."""
    keys = ("network", "alpha", "format", "inputs")
    done = {tuple(line[key] for key in keys) for line in read_lines(lines, missing_ok=True)}
    code = commit()
    for way in inputs:
        for name in networks:
            for alpha in ALPHAS:
                for form in formats:
                    if ("own (VGG)" if name == OWN else name, alpha, form, way) in done:
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        line = export_line(name, alpha, form, way, Path(folder))
                    line["commit"] = code
                    line["command"] = "python -m studies.export_table run"
                    line["time"] = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
                    print(json.dumps(line), flush=True)
                    append_line(lines, line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measure, show = (commands.add_parser(name) for name in ("run", "table"))
    show.add_argument("lines", type=Path)
    measure.add_argument("--lines", type=Path, required=True, help="JSON lines are added to it")
    measure.add_argument("--networks", nargs="+", default=[*NETWORKS])
    measure.add_argument("--formats", nargs="+", default=[*FORMATS])
    measure.add_argument("--inputs", nargs="+", default=[*INPUTS])
    args = parser.parse_args()
    if args.command == "table":
        print(table(args.lines))
        return
    torch.set_num_threads(1)
    run(args.lines, args.networks, args.formats, args.inputs)


if __name__ == "__main__":
    main()
