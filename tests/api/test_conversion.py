"""A trained network becomes octave: the checkpoint, the report, and what is refused."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import octvideo
from octvideo.api import conversion
from octvideo.api.conversion import convert_to_octave
from octvideo.api.conversion_views import Views, files_of, logits
from octvideo.api.predict import view_scores
from octvideo.api.protocols import protocol_of
from octvideo.cli import octavize
from octvideo.config import load_cfg
from octvideo.data.protocol import build_protocol
from octvideo.data.sources.folders import video_files
from octvideo.data.synthetic.videos import make_synthetic
from octvideo.deploy import ExportedNetwork
from octvideo.engine import run_test, run_train, save_checkpoint
from octvideo.engine.checkpoint import list_checkpoints
from octvideo.layers import OctConv3d
from octvideo.surgery import low_channels
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError
from octvideo.utils.plain import to_plain
from support import liven

OPTIONS = {"depth": 14, "width_per_group": 16, "num_frames": 4, "crop_size": 48}
NAMES = [f"action {i}" for i in range(8)]


def save(model: nn.Module, path: Path) -> Path:
    content = {
        "model_state": model.state_dict(),
        "epoch": 3,
        "source": {},
        "spec": model.spec.to_dict(),
        "protocol": to_plain(model.protocol),
        "class_names": NAMES,
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    make_synthetic(folder, num_train=2, num_val=1, num_test=11, seed=3, seconds=(1, 2))
    return video_files(folder / "test")[:11]


@pytest.fixture(scope="module")
def vanilla(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A network with random weights, whose batch norms have the statistics of the clips."""
    torch.manual_seed(1)
    model = liven(octvideo.create_model("i3d_r50", 8, **OPTIONS))
    octvideo.calibrate(model, Views(clips, model.protocol, True, 11, torch.device("cpu")))
    path = save(model, tmp_path_factory.mktemp("vanilla") / "vanilla.pyth")
    return SimpleNamespace(model=model, path=path)


@pytest.fixture(scope="module")
def made(vanilla, clips, tmp_path_factory) -> SimpleNamespace:
    """What the command writes for eleven videos and a damaged one."""
    folder = tmp_path_factory.mktemp("made")
    damaged = folder / "damaged.mp4"
    damaged.write_bytes(b"no video")
    out, report, numbers = (folder / name for name in ("octave.pyth", "report.md", "report.json"))
    files = [*clips[:3], str(damaged), *clips[3:]]
    words = [str(vanilla.path), "--files", *files, "--fast", "--steps", "4", "--lr", "0.0001"]
    words += ["--alpha", "0.5", "--out", str(out), "--report", str(report), "--json", str(numbers)]
    assert octavize.main(words, "octvideo octavize") == 0
    return SimpleNamespace(
        out=out,
        files=clips,
        damaged=str(damaged),
        model=octvideo.load(out),
        markdown=report.read_text(),
        report=json.loads(numbers.read_text()),
    )


def test_the_checkpoint_is_the_network_that_was_made(vanilla, made, clips) -> None:
    again = convert_to_octave(
        vanilla.path, made.files, 0.5, steps=4, lr=0.0001, fast=True, name="again"
    )
    x = torch.randn(2, 3, 4, 48, 48)
    assert any(isinstance(module, OctConv3d) for module in made.model.modules())
    with torch.no_grad():
        assert torch.equal(again.model(x), made.model(x))
        other = octvideo.create_model("i3d_r50", pretrained=made.out, **OPTIONS).eval()
        assert torch.equal(other(x), made.model(x))
        assert not torch.equal(vanilla.model(x), made.model(x))
    assert made.model.spec == again.model.spec == other.spec
    assert made.model.spec.octave.alpha == 0.5
    assert made.model.protocol == vanilla.model.protocol
    assert made.model.class_names == NAMES
    [(best, _)] = octvideo.predict(clips[0], made.out, topk=1)
    assert best in NAMES
    assert octvideo.extract_features(clips[0], made.model, fast=True).shape == (512,)
    assert again.report.source == "again"
    content = torch.load(made.out, weights_only=True)
    assert content["epoch"] == -1
    assert content["source"]["name"] == "vanilla.pyth"


def test_agreement_is_that_of_predict_on_files_that_were_held_out(vanilla, made) -> None:
    report = made.report
    assert report["is_held_out"]
    assert report["measured"] == [made.files[4], made.files[9]]
    assert report["learned"] == [f for i, f in enumerate(made.files) if i not in (4, 9)]
    assert [path for path, _ in report["skipped"]] == [made.damaged]
    assert [step["step"] for step in report["agreement"]] == [
        *("octavize", "refit", "calibrate", "distill")
    ]
    settings = protocol_of(vanilla.model)
    same, kl = [], []
    for file in report["measured"]:
        [wanted], [got] = (
            view_scores(file, model, settings, fast=True) for model in (vanilla.model, made.model)
        )
        same.append(wanted.argmax() == got.argmax())
        kl.append((wanted * np.log(wanted / got)).sum())
    last = report["agreement"][-1]
    assert last["top1_views"] == last["top1_files"] == np.mean(same)
    assert last["kl"] == pytest.approx(np.mean(kl), rel=1e-4)
    kept = [step["kl"] for step in report["agreement"] if step["step"] not in report["undone"]]
    assert len(set(kept)) == len(kept) == 4 - len(report["undone"])
    assert report["views"] == 2


def test_multiply_adds_are_those_of_the_other_counter(vanilla, made) -> None:
    shape = (1, 3, 4, 48, 48)
    report = made.report
    assert report["vanilla_macs"] == count(vanilla.model, shape).macs
    assert report["macs"] == count(made.model, shape).macs < report["vanilla_macs"]
    for key in ("macs", "vanilla_macs"):
        assert sum(stage[key] for stage in report["stages"]) == report[key]
    assert report["stages"][0]["octave_layers"] == 0


def test_markdown_has_the_figures_of_the_json(made) -> None:
    rows = {
        cells[0]: cells[1:]
        for line in made.markdown.splitlines()
        if line.startswith("| ") and (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    report = made.report
    for stage in report["stages"]:
        share = f"{stage['macs'] / stage['vanilla_macs']:.3f}"
        gmacs = [f"{stage[key] / 1e9:.4f}" for key in ("vanilla_macs", "macs")]
        layers = f"{stage['octave_layers']} of {stage['layers']}"
        assert rows[stage["name"]] == [layers, *gmacs, share]
    for step in report["agreement"]:
        shares = [f"{100 * step[key]:.1f} %" for key in ("top1_views", "top1_files")]
        assert rows[step["step"]] == [*shares, f"{step['kl']:.4f}"]
    times = [report["vanilla_ms"], report["octave_ms"]]
    assert rows[report["device"]] == [
        *(f"{ms:.2f}" for ms in times), f"{times[1] / times[0]:.3f}"
    ]  # fmt: skip
    assert report["command"] in made.markdown
    assert report["command"].startswith("octvideo octavize ")
    assert made.damaged in made.markdown
    assert report["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_distillation_on_more_steps_brings_it_nearer(vanilla, clips) -> None:
    """Without labels; the views of all files, and one file that is all there is."""
    [video] = clips[:1]
    settings = {"steps": 40, "lr": 0.002, "refit": False, "calibrate": False, "fast": True}
    report = convert_to_octave(vanilla.model, [video], 0.5, choose="first", **settings).report
    before, after = report.agreement
    assert after.kl < 0.3 * before.kl
    assert not report.is_held_out
    assert report.learned == report.measured == (video,)
    assert "only one" in report.to_markdown()


@pytest.mark.slow
def test_refit_brings_it_nearer(vanilla, clips) -> None:
    """On files that it has not seen."""
    settings = {"steps": 0, "calibrate": False}
    report = convert_to_octave(vanilla.model, clips, 0.5, **settings).report
    before, after = report.agreement
    assert after.step == "refit"
    assert after.kl < 0.8 * before.kl
    assert not report.undone


def test_a_step_that_does_harm_is_undone(vanilla, clips, monkeypatch) -> None:
    def harm(student: nn.Module, *rest: object, **options: object) -> None:
        for parameter in student.parameters():
            parameter.data.mul_(1.5)

    monkeypatch.setattr(conversion, "solve_layers", harm)
    settings = {"steps": 0, "calibrate": False, "fast": True, "choose": "first"}
    model, report = convert_to_octave(vanilla.model, clips[:3], 0.5, **settings)
    assert report.undone == ("refit",)
    before, after = report.agreement
    assert before.kl == after.kl
    assert "refit" in report.to_markdown().split("did harm")[1]
    for name, value in model.named_parameters():
        assert torch.equal(value, vanilla.model.get_parameter(name))


def test_a_sample_takes_of_every_file(vanilla, clips) -> None:
    views = Views(clips, vanilla.model.protocol, False, 4, torch.device("cpu"))
    for wanted, total in ((9, 9), (18, 18), (3, 3), (10_000, 9 * 30)):
        sample = views.sample(wanted)
        assert sum(map(len, sample)) == total
        assert all(len(batch) <= 4 for batch in sample)
    everything = torch.cat([*views])
    assert sorted(x.sum().item() for x in torch.cat(views.sample(10_000))) == sorted(
        x.sum().item() for x in everything
    )


@pytest.mark.slow
def test_the_vanilla_network_stays_as_it_was(vanilla, clips) -> None:
    before = {name: value.clone() for name, value in vanilla.model.state_dict().items()}
    options = {"steps": 1, "batch_size": 4, "refit": False}
    model, report = convert_to_octave(vanilla.model, clips[:2], **options)
    assert all(torch.equal(v, before[k]) for k, v in vanilla.model.state_dict().items())
    assert not model.training
    assert report.views == 30
    assert (len(report.learned), len(report.measured)) == (1, 1)


@pytest.mark.slow
def test_an_image_network(tmp_path: Path) -> None:
    from PIL import Image

    torch.manual_seed(0)
    model = liven(octvideo.create_model("resnet26_v1b", 5, width=16, crop_size=64))
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 255, (80, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    files = files_of([tmp_path], model)
    assert len(files) == 6
    report = convert_to_octave(model, files, steps=2).report
    assert report.measured == (files[4],)
    assert report.views == 1


def test_a_network_of_another_project(clips, tmp_path: Path) -> None:
    """The record builds it again; its code is named by who loads it."""
    name = "support.own_networks:video"
    options = {"num_frames": 4, "crop_size": 32, "options": {"width": 32}}
    model = octvideo.create_model(name, 5, **options).eval()
    made = convert_to_octave(model, clips[:2], steps=1, fast=True)
    assert made.model.spec.octave.channels
    save_checkpoint(tmp_path / "own.pyth", conversion.content_of(made, "own"))
    again = octvideo.load(tmp_path / "own.pyth", network=name)
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), made.model(x))


@pytest.mark.slow
def test_a_test_takes_the_checkpoint(small, tmp_path: Path) -> None:
    """With the configuration of the vanilla network, its scores are those of predict."""
    opts = [*small.opts, "OCTAVE.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", ""]
    model = octvideo.api.loading.load_trained(small.cfg, small.checkpoint, opts[:-2])
    made = convert_to_octave(model, small.videos, steps=0, calibrate=False, fast=True)
    out = tmp_path / "octave.pyth"
    save_checkpoint(out, conversion.content_of(made, "small"))
    opts[-1] = str(out)
    opts += ["OUTPUT_DIR", str(tmp_path), "TEST.SAVE_RESULTS_PATH", "scores.npz"]
    cfg = load_cfg(small.cfg, opts)
    run_test(cfg)
    with np.load(tmp_path / "scores.npz") as saved:
        for video, scores in zip(saved["paths"].tolist(), saved["scores"], strict=True):
            wanted = view_scores(video, octvideo.load(out), build_protocol(cfg))
            np.testing.assert_allclose(wanted, scores, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_training_goes_on_from_the_checkpoint(small, tmp_path: Path) -> None:
    """With the configuration of the vanilla network: from the start, resumed, and loaded."""
    opts = [*small.opts, "OCTAVE.ENABLE", False]
    model = octvideo.api.loading.load_trained(small.cfg, small.checkpoint, opts)
    made = convert_to_octave(model, small.videos, steps=0, calibrate=False, fast=True)
    out = tmp_path / "octave.pyth"
    save_checkpoint(out, conversion.content_of(made, "small"))
    opts += ["OUTPUT_DIR", str(tmp_path / "run"), "TRAIN.CHECKPOINT_FILE_PATH", str(out)]
    opts += ["TRAIN.ENABLE", True, "TRAIN.EVAL_PERIOD", 0, "SOLVER.BASE_LR", 1e-9]
    opts += ["SOLVER.WARMUP_EPOCHS", 0.0, "SOLVER.COSINE_END_LR", 0.0, "TRAIN.BATCH_SIZE", 1]
    for epochs in (1, 2):
        run_train(load_cfg(small.cfg, [*opts, "SOLVER.MAX_EPOCH", epochs]))
        trained = octvideo.load(tmp_path / "run")
        assert low_channels(trained) == low_channels(made.model) != {}
        content = torch.load(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
        assert content["spec"]["octave"]["channels"]
        for name, value in made.model.named_parameters():
            torch.testing.assert_close(trained.get_parameter(name), value, msg=name)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_logits_of_answers(activation: str) -> None:
    x = torch.randn(3, 5)
    scores = {"softmax": x.softmax(-1), "sigmoid": x.sigmoid(), "none": x}[activation]
    y = logits(scores, activation)
    if activation == "sigmoid":
        torch.testing.assert_close(y.softmax(-1)[..., 0], scores)
    else:
        torch.testing.assert_close(y.softmax(-1), x.softmax(-1))


# What is refused


def run(vanilla: SimpleNamespace, *words: object, source: object = None) -> int:
    return octavize.main([str(source or vanilla.path), *map(str, words)])


def test_wrong_use(vanilla, made, clips, tmp_path, capsys) -> None:
    [video] = clips[:1]
    absent = tmp_path / "absent.mp4"
    torch.manual_seed(0)
    options = {**OPTIONS, "depth": 50, "width_per_group": 8}
    nonlocal_network = save(octvideo.create_model("i3d_nln_r50", 8, **options), tmp_path / "n.pyth")
    for words, source, text in [
        (["--files", video, "--alpha", 1.5], None, "1.5"),
        (["--files", video, "--alpha", 0], None, "alpha"),
        (["--files", video], made.out, "octave already"),
        (["--files", video], nonlocal_network, "non-local"),
        (["--files", absent], None, str(absent)),
        (["--files", tmp_path / "no_such"], None, "no_such"),
        (["--files", video], tmp_path / "none.pyth", "none.pyth"),
        (["--files", video], "no_such_name", "no_such_name"),
        (["--files", video, "--out", vanilla.path], None, "source itself"),
        (["--files", video, "--out", tmp_path], None, "folder"),
        (["--files", video, "--report", tmp_path / "a", "--json", tmp_path / "a"], None, "same"),
        (["--files", video, "--steps", 2, "--lr", 1e30, "--fast"], None, "lr"),
        (["--files", video, "--device", "nonsense"], None, "nonsense"),
    ]:
        out = [] if "--out" in words else ["--out", tmp_path / "out.pyth"]
        assert run(vanilla, *words, *out, source=source) == 2, words
        message = capsys.readouterr().err
        assert re.match(r"(.*\n)*error: ", message), words
        assert text in message, (words, message)
    assert not (tmp_path / "out.pyth").exists()
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no files"):
        convert_to_octave(vanilla.model, files_of([empty], vanilla.model))


def test_an_exported_network_cannot_become_octave() -> None:
    network = ExportedNetwork.__new__(ExportedNetwork)  # what is in the file does not matter
    nn.Module.__init__(network)
    network.path = Path("i3d.onnx")
    with pytest.raises(UserError, match=r"i3d\.onnx is exported already"):
        convert_to_octave(network, [])


def test_after_ctrl_c_nothing_is_written(vanilla, clips, tmp_path, capsys, monkeypatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "distill", interrupt)
    words = ["--files", clips[0], "--fast", "--out", tmp_path / "out.pyth"]
    assert run(vanilla, *words, "--json", tmp_path / "report.json") == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
