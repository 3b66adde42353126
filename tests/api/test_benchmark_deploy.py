"""octvideo benchmark deploy: what the rows say, not how fast this machine is."""

import json
import mmap

import pytest

from octvideo import create_model
from octvideo.api import benchmark_deploy as deploy
from octvideo.api.benchmark_deploy import Form, benchmark_deploy, format_deploy_rows
from octvideo.cli.main import main
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError


def rows_of(monkeypatch, tmp_path, seconds, **options):
    """The rows where the forms take the given (wall-clock, CPU) seconds in each round."""

    def measure(subjects, rounds):
        return {s: ([seconds[s.form, s.alpha]] * rounds, 7.0) for s in subjects}

    def file(model, subject, form, folder):
        path = folder / f"{form}{subject.alpha}.onnx"
        path.write_bytes(bytes(2_000_000))
        return "" if form == "ours" else str(path)

    monkeypatch.setattr(deploy, "_measure", measure)
    monkeypatch.setattr(deploy, "_file", file)
    forms = ["ours", "onnx", "onnx_int8"]
    return benchmark_deploy(["i3d_r18"], [0.5], forms, rounds=3, folder=tmp_path, **options)


@pytest.mark.slow
def test_ratios(monkeypatch, tmp_path) -> None:
    forms = ["ours", "onnx", "onnx_int8"]
    cpu = {0.0: (6, 8, 4), 0.5: (3, 5, 2)}
    seconds = {(f, a): (9, s) for a in cpu for f, s in zip(forms, cpu[a], strict=True)}
    rows = rows_of(monkeypatch, tmp_path, seconds, batch=2)
    by_form = {(row["form"], row["alpha"]): row for row in rows}
    theory = by_form["ours", 0.5]["theory"]
    vanilla, octave = (
        count(create_model("i3d_r18", octave_alpha=a), (1, 3, 8, 256, 256)).macs for a in (0, 0.5)
    )
    assert theory == round(vanilla / octave, 3) > 1
    assert [by_form[key]["of_ours"] for key in by_form] == [1, 0.75, 1.5, 1, 0.6, 1.5]
    assert [by_form[key]["of_float"] for key in by_form] == [None, None, 2, None, None, 2.5]
    assert [by_form[key]["speedup"] for key in by_form] == [1, 1, 1, 2, 1.6, 2]
    assert by_form["onnx", 0.5]["realised"] == pytest.approx(1.6 / theory, abs=1e-3)
    assert {row["clips_per_s"] for row in rows} == {round(2 / 9, 2)}
    assert [row["file_mb"] for row in rows] == [None, 2, 2] * 2
    assert format_deploy_rows(rows).count("\n") == 7


@pytest.mark.slow
def test_several_threads_are_compared_by_the_clock(monkeypatch, tmp_path) -> None:
    seconds = {
        (form, a): (2 - 2 * a, 9.0) for form in ("ours", "onnx", "onnx_int8") for a in (0, 0.5)
    }
    rows = rows_of(monkeypatch, tmp_path, seconds, threads=[2])
    assert [row["speedup"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert {row["threads"] for row in rows} == {2}


def test_memory_is_what_a_process_has_more() -> None:
    kept = []

    class Large(Form):
        def _ours(self):
            kept.append(mmap.mmap(-1, 40 << 20))  # pages that nobody had before
            kept[0].write(b"x" * (40 << 20))
            return lambda: None

    [memory] = Large("", 0.0, "ours", (1,)).begin()("memory")
    assert 39 < memory < 60


def test_an_unknown_form(tmp_path) -> None:
    with pytest.raises(UserError, match=r"tflite.*openvino_int8"):
        benchmark_deploy(["i3d_r18"], [], ["tflite"], folder=tmp_path)


@pytest.mark.slow
def test_the_command(tmp_path, capsys) -> None:
    """Of a network that comes with octvideo, and is small."""
    for package in ("nncf", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs octvideo[onnx,int8]")
    words = ["i3d_synthetic", "--forms", "ours", "onnx", "onnx_int8", "--rounds", "1"]
    words = ["benchmark", "deploy", *words, "--json", "--folder", str(tmp_path)]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["form"] for row in rows] == ["ours", "onnx", "onnx_int8"]
    assert all(row["ms"] > 0 and row["memory_mb"] > 0 for row in rows)
    assert rows[2]["file_mb"] < 0.5 * rows[1]["file_mb"]
