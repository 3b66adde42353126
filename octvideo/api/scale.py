"""What a training asks of network, cores and storage on more and more GPUs: arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode

from octvideo.config import Processes, batch_per_process, linear_rule_lr
from octvideo.models import build_model


@dataclass(frozen=True)
class Measured:
    """What the table is computed from."""

    gpu_clips: float  # clips a second that one GPU trains on
    core_clips: float  # clips a second that one loader core makes
    file_megabytes: float  # size of a video, of 10^6 bytes


def scale_table(
    cfg: CfgNode, measured: Measured, gpus: Sequence[int], gpus_per_node: int
) -> list[dict[str, float]]:
    """Returns a row for each number of GPUs, each with the batch that ``cfg`` gives one process.

    A ring sends 2 (n - 1) / n of the gradients, which are float32, from every GPU in each step;
    between nodes the same crosses each link of the ring.
    """
    with torch.device("meta"):
        gradients = 4 * sum(p.numel() for p in build_model(cfg).parameters() if p.requires_grad)
    batch = batch_per_process(cfg, Processes.of(cfg))
    steps = measured.gpu_clips / batch
    rows = []
    for count in gpus:
        sent = 2 * (count - 1) / count * gradients
        clips = count * measured.gpu_clips
        rows.append(
            {
                "gpus": count,
                "nodes": -(-count // gpus_per_node),
                "global_batch": count * batch,
                "linear_rule_lr": linear_rule_lr(cfg, count * batch),
                "steps_per_second": steps,
                "sent_mb_per_step": sent / 1e6,
                "sent_mb_per_second": sent * steps / 1e6,
                "loader_cores_per_gpu": measured.gpu_clips / measured.core_clips,
                "files_per_second": clips,
                "storage_mb_per_second": clips * measured.file_megabytes,
            }
        )
    return rows


def format_scale(rows: Sequence[dict[str, float]]) -> str:
    """Returns the rows as a table in Markdown."""
    titles = {
        "gpus": "GPUs",
        "nodes": "nodes",
        "global_batch": "global batch",
        "linear_rule_lr": "LR (linear rule)",
        "steps_per_second": "steps / s",
        "sent_mb_per_step": "MB sent a GPU and step",
        "sent_mb_per_second": "MB/s a GPU",
        "loader_cores_per_gpu": "loader cores a GPU",
        "files_per_second": "files read / s",
        "storage_mb_per_second": "storage MB/s, at most",
    }
    lines = ["| " + " | ".join(titles.values()) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        cells = [f"{v:,.0f}" if v >= 1000 else f"{v:.4g}" for v in (row[key] for key in titles)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
