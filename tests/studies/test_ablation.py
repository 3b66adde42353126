"""The command that runs variants of the octave convolution."""

from pathlib import Path

import pytest

from octvideo.config import ConfigError, cfg_of_checkpoint, load_cfg
from studies import ablation

CFG = "Synthetic/OCT_I3D"


def test_counts_differ_by_variant(capsys: pytest.CaptureFixture[str]) -> None:
    totals = {}
    for words in ("", "--downsample max", "--upsample-first", "--paths no_l2h"):
        assert ablation.main([*words.split(), "--count", "--cfg", CFG]) == 0
        name, *_, total = capsys.readouterr().out.strip().splitlines()
        totals[words] = int(total.split()[2].replace(",", ""))
        assert "OCT" not in name
    assert totals["--downsample max"] == totals[""]
    assert totals["--paths no_l2h"] < totals[""] < totals["--upsample-first"]


def test_a_variant_has_a_folder_of_its_own() -> None:
    args, of_run = ablation.parse_args(["--paths", "no_h2l", "--cfg", CFG, "OUTPUT_DIR", "runs/a"])
    (cfg,) = ablation.read(args, of_run)
    assert Path("runs/a/avg-no_h2l") == Path(cfg.OUTPUT_DIR)


def test_a_vanilla_network_has_nothing_to_vary(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--count", "--paths", "no_h2l", "--cfg", "Synthetic/I3D"]) == 2
    assert "OCTAVE.ENABLE" in capsys.readouterr().err


@pytest.mark.slow
def test_a_variant_is_trained_and_tested(tmp_path: Path) -> None:
    from octvideo.data.synthetic.videos import make_synthetic

    make_synthetic(tmp_path / "data", num_train=16, num_val=2, num_test=2, seconds=(1, 1.5))
    words = "--downsample max --paths no_l2h --opts SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0"
    words += f" TEST.NUM_ENSEMBLE_VIEWS 1 OUTPUT_DIR {tmp_path}"
    words += f" DATA.PATH_TO_DATA_DIR {tmp_path}/data"
    assert ablation.main(["--cfg", CFG, *words.split()]) == 0
    folder = tmp_path / "max-no_l2h"
    assert "test_final" in (folder / "json_stats.log").read_text()
    assert list(folder.glob("checkpoints/*.pyth"))


OLD = {"DOWNSAMPLE": ("avg", "max"), "UPSAMPLE_FIRST": (False, True), "PATHS": ("both", "no_l2h")}


@pytest.mark.parametrize("name", OLD)
def test_keys_of_old_configurations(name: str, tmp_path: Path) -> None:
    """Silent at the paper's value, which every old checkpoint holds; else the study is named."""
    paper, other = OLD[name]
    file = tmp_path / "old.yaml"
    file.write_text(f"OCTAVE:\n  ENABLE: True\n  {name}: {paper}\n")
    assert load_cfg(file) == load_cfg(None, ["OCTAVE.ENABLE", "True"])
    assert cfg_of_checkpoint(file.read_text()) == load_cfg(file)
    file.write_text(f"OCTAVE:\n  {name}: {other}\n")
    with pytest.raises(ConfigError, match=rf"old.yaml:2: OCTAVE.{name} .*studies.ablation"):
        load_cfg(file)
