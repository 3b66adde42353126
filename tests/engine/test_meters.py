import json
import time

import numpy as np
import pytest
import torch

from octvideo.engine.log import log_json_stats
from octvideo.engine.meters import Clock, TrainMeter, loader_bound, top_k_correct
from octvideo.engine.results import (
    ScoreTable,
)


def test_top_k_against_sorting():
    torch.manual_seed(0)
    scores, labels = torch.randn(50, 7), torch.randint(7, (50,))
    ranks = scores.argsort(dim=1, descending=True)
    expected = [
        sum(int(y in row[:k]) for y, row in zip(labels, ranks, strict=True)) for k in (1, 5)
    ]
    assert top_k_correct(scores, labels).tolist() == expected


def test_top_5_of_fewer_classes_is_everything():
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert top_k_correct(scores, labels)[1] == 6


def test_train_meter_weights_batches_by_their_size():
    meter = TrainMeter(torch.device("cpu"))
    meter.add(torch.tensor(1.0), torch.tensor([1, 2]), 2)
    meter.add(torch.tensor(4.0), torch.tensor([0, 1]), 1)
    stats = meter.read()
    assert stats["loss"] == pytest.approx(2.0)
    assert stats["top1_err"] == pytest.approx(100 * 2 / 3)
    assert stats["top5_err"] == pytest.approx(0.0, abs=1e-4)


def test_clock_on_the_cpu(monkeypatch):
    times = iter([10.0, 13.0, 14.0, 15.0, 18.0, 18.0])
    monkeypatch.setattr(time, "perf_counter", times.__next__)
    clock = Clock(torch.device("cpu"))
    for _ in range(2):  # 3 s of waiting and 1 of work, then 1 and 3
        clock.data_arrived()
        clock.step_done()
    stats = clock.read()
    assert stats == {"dt": 4.0, "dt_data": 2.0, "dt_net": 2.0, "loader_bound": 50.0}
    assert loader_bound(stats) == "loader-bound: 50 %"
    assert loader_bound({"loader_bound": 10.0}) == ""


def test_clock_of_a_device_counts_what_the_device_waited(monkeypatch):
    """Steps are handed over in no time and take 4 s each: only the first wait leaves a gap."""

    class Event:
        busy_until = 10.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.busy_until = self.at = max(Event.busy_until, now[0])

        def query(self) -> bool:
            return now[0] >= self.at

        def elapsed_time(self, end: "Event") -> float:
            return 1000 * (end.at - self.at)

    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for wait in (2.0, 3.0, 3.0):
        now[0] += wait
        clock.data_arrived()
        Event.busy_until = max(Event.busy_until, now[0]) + 4.0
        clock.step_done()
    now[0] = Event.busy_until
    stats = clock.read()
    assert (stats["dt"], stats["dt_data"]) == pytest.approx((14 / 3, 8 / 3))
    assert stats["loader_bound"] == pytest.approx(100 * 2 / 14)


def test_score_table(tmp_path):
    table = ScoreTable(np.array([0, 1, 2]), num_views=2, num_classes=3)
    table.put(0, np.array([[0.6, 0.4, 0.0], [0.6, 0.1, 0.3]]))
    table.put(2, np.array([[0.0, 0.9, 0.1], [0.2, 0.2, 0.6]]))
    assert table.scored.tolist() == [True, False, True]
    assert table.ensemble("sum")[2].argmax() == 1
    np.testing.assert_allclose(table.ensemble("max")[2], [0.2, 0.9, 0.6])
    with pytest.raises(AssertionError):
        table.put(0, np.zeros((2, 3)))
    table.save(tmp_path / "deep" / "scores.npz", ["a.mp4", "b b.mp4", "c.mp4"])
    with np.load(tmp_path / "deep" / "scores.npz") as saved:
        np.testing.assert_array_equal(saved["scores"], table.scores)
        assert saved["scored"].tolist() == [True, False, True]
        assert saved["paths"].tolist()[1] == "b b.mp4"


def test_json_stats_lines_have_sorted_keys(tmp_path):
    log_json_stats({"loss": 1 / 3, "_type": "train_iter", "epoch": "1/2"}, tmp_path)
    log_json_stats({"b": 1, "a": 2}, tmp_path)
    lines = (tmp_path / "json_stats.log").read_text().splitlines()
    assert lines[0] == 'json_stats: {"_type": "train_iter", "epoch": "1/2", "loss": 0.33333}'
    assert list(json.loads(lines[1].removeprefix("json_stats: "))) == ["a", "b"]
