"""Networks as folders of safetensors and JSON, and as repositories of the Hub."""

import ast
import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch
from torch import nn

import octvideo
from octvideo.cli.main import main
from octvideo.config import load_cfg
from octvideo.engine.test import run_test
from support import ROOT, liven

pytest.importorskip("safetensors", reason="needs octvideo[hub]")

NARROW = {"width_per_group": 8, "crop_size": 64, "num_frames": 4}
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    model = liven(octvideo.create_model("i3d_r14", 5, 0.25, **NARROW)).eval()
    model.protocol = octvideo.Protocol(4, 3, 64, num_clips=2, mean=(0.4, 0.45, 0.5))
    model.class_names = ["down", "left", "right", "a | b", "up"]
    return model


@pytest.fixture(autouse=True)
def without_hub(monkeypatch):
    """Folders need no huggingface_hub; the test of the Hub has a process of its own."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def same(model, other, frames=4):
    clips = torch.randn(2, 3, frames, 64, 64)
    with torch.no_grad():
        return torch.equal(model(clips), other(clips))


def test_a_folder_is_the_network_again(narrow, tmp_path):
    folder = narrow.save_pretrained(tmp_path / "new" / "narrow")
    assert sorted(os.listdir(folder)) == FILES
    for load in (octvideo.from_pretrained, octvideo.load):
        loaded = load(folder)
        assert (loaded.spec, loaded.protocol) == (narrow.spec, narrow.protocol)
        assert loaded.class_names == narrow.class_names
        assert not loaded.training
        assert same(loaded, narrow)
    created = octvideo.create_model("i3d_r14", pretrained=str(folder))
    assert same(created.eval(), narrow)


@pytest.fixture
def folder(small, tmp_path):
    return octvideo.load(small.checkpoint, cfg=small.cfg).save_pretrained(tmp_path / "model")


def test_the_command_takes_a_folder(folder, small, capsys):
    named = ["--cfg", str(small.cfg), "--checkpoint", str(small.checkpoint)]
    said = []
    for words in (named, ["--checkpoint", str(folder)]):
        assert main(["predict", "--json", *words, small.videos[0]]) == 0
        said.append(json.loads(capsys.readouterr().out)["scores"])
    assert [score for _, score in said[0]] == [score for _, score in said[1]]


def test_a_test_takes_a_folder(folder, small, tmp_path):
    found = []
    for source in (small.checkpoint, folder):
        opts = {"TEST.CHECKPOINT_FILE_PATH": source, "OUTPUT_DIR": tmp_path / source.stem,
                "TRAIN.ENABLE": False, "NUM_GPUS": 0}  # fmt: skip
        words = [str(word) for pair in opts.items() for word in pair]
        stats = run_test(load_cfg(small.cfg, [*small.opts, *words]))
        found.append({key: value for key, value in stats.items() if "top" in key})
    assert found[0] == found[1] != {}


def test_the_card_says_what_is_known(narrow, tmp_path):
    metrics = {"top-1 (%)": 71.5}
    narrow.save_pretrained(tmp_path, licence="Apache-2.0", dataset="Gestures", metrics=metrics)
    card = (tmp_path / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert 'license: "apache-2.0"' in head
    assert "library_name: octvideo" in head
    count = sum(p.numel() for p in narrow.parameters())
    for fact in ("0.25", "Gestures", "71.5", r"a \| b", f"{count / 1e6:.2f} M", "sampling_rate"):
        assert fact in body
    narrow.save_pretrained(tmp_path)
    assert "71.5" not in (tmp_path / "README.md").read_text()


def test_a_network_of_the_users_own_code(tmp_path):
    """It comes back where the user names the code; a folder alone cannot have it imported."""
    name = "support.own_networks:video"
    model = octvideo.create_model(name, 5, 0.5, num_frames=4, crop_size=64).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(octvideo.UserError, match=name):
        octvideo.from_pretrained(tmp_path)
    assert same(octvideo.from_pretrained(tmp_path, network=name), model)


@pytest.mark.parametrize("how", ["optimised", "octavized", "layer"])
def test_what_the_record_does_not_describe_is_refused(how, narrow, tmp_path):
    if how == "optimised":
        narrow = octvideo.optimize_for_inference(narrow)
    elif how == "octavized":  # the parameters have the same names and shapes
        narrow = octvideo.create_model("i3d_r14", 5, **NARROW)
        narrow = octvideo.octavize(narrow, alpha=0.25, example=torch.zeros(1, 3, 4, 64, 64))
    else:
        narrow.head.dropout = nn.Sequential(nn.ReLU())
    with pytest.raises(octvideo.UserError, match="create_model"):
        narrow.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def changed(path, change):
    path.write_bytes(change(path.read_bytes()))


def reconfigured(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


DAMAGES = {
    "truncated": lambda f: changed(f / FILES[2], lambda b: b[: len(b) // 2]),
    "one bit": lambda f: changed(f / FILES[2], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]),
    "no JSON": lambda f: changed(f / FILES[1], lambda b: b[:-20]),
    "nested": lambda f: changed(f / FILES[1], lambda b: b"[" * 100_000),
    "foreign": lambda f: (f / FILES[1]).write_text('{"architecture": "resnet50"}'),
    "another network": lambda f: reconfigured(f, spec={"network": "ResNetSpec", "depth": 101}),
    "unknown field": lambda f: reconfigured(f, spec={"network": "ResNetSpec", "hidden": 1}),
    "huge": lambda f: reconfigured(f, spec={"network": "ResNetSpec", "width_per_group": 2**20}),
    "huge views": lambda f: reconfigured(
        f, protocol={"num_frames": 10**9, "sampling_rate": 1, "crop_size": 64}
    ),
    "no weights": lambda f: (f / FILES[2]).unlink(),
    "no config": lambda f: (f / FILES[1]).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_folders(damage, narrow, tmp_path):
    narrow.save_pretrained(tmp_path)
    DAMAGES[damage](tmp_path)
    with pytest.raises(octvideo.UserError):
        octvideo.from_pretrained(tmp_path)


CARD = """
import sys
from huggingface_hub import ModelCard
data = ModelCard.load(sys.argv[1]).data
found = [(r.task_type, r.dataset_name, r.dataset_type, r.metric_type, r.metric_name, r.metric_value)
         for r in data.eval_results or ()]
print([data.license, data.model_name if found else None, data.pipeline_tag, found])
"""


@pytest.mark.parametrize(
    ("metrics", "dataset", "expected"),
    [
        (None, "", []),
        ({"note": "fine", "top-1": float("nan")}, "x", []),
        (
            {'top-1: "30" views, %': 71.5, "Mean loss": 0.5, "note": "fine"},
            "Kinetics: 400",
            [
                ("accuracy", 'top-1: "30" views, %', 71.5),
                ("mean-loss", "Mean loss", 0.5),
            ],
        ),
    ],
)
def test_the_hub_reads_the_figures_of_the_card(narrow, tmp_path, metrics, dataset, expected):
    pytest.MonkeyPatch().delitem(sys.modules, "huggingface_hub", raising=False)
    pytest.importorskip("huggingface_hub", reason="needs octvideo[hub]")
    narrow.save_pretrained(tmp_path, licence="MIT", dataset=dataset, metrics=metrics)
    words = [sys.executable, "-c", CARD, str(tmp_path / "README.md")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    task = "video-classification"
    found = [(task, "Kinetics: 400", "kinetics-400", *row) for row in expected]
    name = (tmp_path / "README.md").read_text().split("\n# ")[1].splitlines()[0]
    assert ast.literal_eval(done.stdout) == ["mit", name if found else None, task, found]


def test_nothing_is_half_written(narrow, tmp_path, monkeypatch):
    narrow.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    monkeypatch.setattr("octvideo.models.pretrained.json.dumps", lambda *a, **k: 1 / 0)
    nn.init.ones_(narrow.head.projection.weight)
    with pytest.raises(ZeroDivisionError):
        narrow.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("source", ["no such folder", "owner/name", "hf://owner"])
def test_no_such_source(source):
    with pytest.raises(octvideo.UserError, match=source):
        octvideo.from_pretrained(source)


def test_a_missing_package_is_named(narrow, tmp_path, monkeypatch):
    with pytest.raises(octvideo.UserError, match="huggingface_hub"):
        narrow.push_to_hub("owner/name")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(octvideo.UserError, match="hub"):
        narrow.save_pretrained(tmp_path)


# A server with as much of the Hub's interface as huggingface_hub asks for.


class Hub(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *words):
        pass

    def answer(self, content: bytes, status: int = 200, **headers):
        self.send_response(status)
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": "c" * 40, **headers}
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, **content):
        self.answer(json.dumps(content).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self.json(url=f"http://{self.headers['Host']}/owner/narrow")
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.json(files=[{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                             for f in files])  # fmt: skip
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.json(
                commitUrl=f"http://{self.headers['Host']}/owner/narrow/commit/1",
                commitOid="c" * 40,
                success=True,
            )
        else:
            self.json()

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        if "owner/narrow" not in self.path:
            self.answer(b"", 404, **{"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in self.path and name in self.files:
            self.answer(self.files[name])
        elif "/tree/" in self.path:
            listed = [{"type": "file", "path": k, "size": len(v), "oid": "0" * 40}
                      for k, v in self.files.items()]  # fmt: skip
            self.answer(json.dumps(listed).encode())
        else:
            siblings = [{"rfilename": k} for k in self.files]
            self.json(id="owner/narrow", sha="c" * 40, siblings=siblings)

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


ROUND_TRIP = """
import sys, torch, octvideo
torch.manual_seed(0)
model = octvideo.create_model("i3d_r14", 5, 0.25, width_per_group=8, crop_size=64).eval()
print(model.push_to_hub("owner/narrow", metrics={"top-1": 50}))
clips = torch.randn(1, 3, 8, 64, 64)
for load, name in ((octvideo.from_pretrained, ""), (octvideo.load, "hf://")):
    assert torch.equal(load(name + "owner/narrow")(clips), model(clips))
try:
    octvideo.from_pretrained("owner/other")
except octvideo.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_there_and_back_through_a_server(tmp_path):
    """It has the Hub's interface as huggingface_hub knows it; the real one was never asked."""
    pytest.MonkeyPatch().delitem(sys.modules, "huggingface_hub", raising=False)
    pytest.importorskip("huggingface_hub", reason="needs octvideo[hub]")
    with hub() as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path),
                       "HF_TOKEN": "hf_test", "PYTHONPATH": str(ROOT)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", ROUND_TRIP],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[0] == f"{address}/owner/narrow"
    assert "owner/other" in done.stdout
    assert {"README.md", "config.json", "model.safetensors"} <= Hub.files.keys()
