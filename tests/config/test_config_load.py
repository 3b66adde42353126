"""Reading files and options: precedence, types, bases, and one message for all mistakes."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octvideo.config import ConfigError, dump, get_cfg, load_cfg
from octvideo.config.keys import leaf_values
from octvideo.config.load import _nearest
from octvideo.config.values import decode

# An I3D file with the keys, the style and the old names that PySlowFast's users have.
PYSLOWFAST_I3D = """
NUM_GPUS: 8
NUM_SHARDS: 1
RNG_SEED: 0
OUTPUT_DIR: .
MODEL: {NUM_CLASSES: 400, ARCH: i3d, MODEL_NAME: ResNet, LOSS_FUNC: cross_entropy,
        DROPOUT_RATE: 0.5}
TRAIN:
  ENABLE: True
  DATASET: kinetics
  BATCH_SIZE: 64
  EVAL_PERIOD: 10
  CHECKPOINT_PERIOD: 1
  AUTO_RESUME: True
TEST: {ENABLE: True, DATASET: kinetics, BATCH_SIZE: 64}
DATA:
  INPUT_CHANNEL_NUM: [3]
  NUM_FRAMES: 8
  SAMPLING_RATE: 8
  TRAIN_JITTER_SCALES: [256, 320]
  TRAIN_CROP_SIZE: 224
  TEST_CROP_SIZE: 256
DATA_LOADER: {NUM_WORKERS: 8, PIN_MEMORY: True}
RESNET:
  DEPTH: 50
  TRANS_FUNC: bottleneck_transform
  WIDTH_PER_GROUP: 64
  NUM_GROUPS: 1
  STRIDE_1X1: False
  ZERO_INIT_FINAL_BN: True
  NUM_BLOCK_TEMP_KERNEL: [[3], [4], [6], [3]]
NONLOCAL:
  LOCATION: [[[]], [[]], [[]], [[]]]
  GROUP: [[1], [1], [1], [1]]
  INSTANTIATION: softmax
BN: {USE_PRECISE_STATS: True, NUM_BATCHES_PRECISE: 200, MOMENTUM: 0.2, EPSILON: 1e-4,
     WEIGHT_DECAY: 0.0}
SOLVER:
  OPTIMIZING_METHOD: sgd
  LR_POLICY: steps_with_relative_lrs
  BASE_LR: 1e-2
  STEPS: [0, 44, 88, 118]
  LRS: [1, 0.1, 1e-2, 0.001]
  MAX_EPOCH: 118
  WARMUP_EPOCHS: 34
  WARMUP_START_LR: 0.01
  MOMENTUM: 0.9
  WEIGHT_DECAY: 1e-4
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a YAML file and returns its path."""

    def write(text: str, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Any = None, opts: tuple[Any, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_cfg(path, opts)
    return caught.value.problems


def test_pyslowfast_file_loads(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_cfg(write(PYSLOWFAST_I3D))
    assert not caplog.records
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4
    assert cfg.SOLVER.LRS == [1, 0.1, 0.01, 0.001]
    assert cfg.SOLVER.WARMUP_EPOCHS == 34.0
    assert type(cfg.SOLVER.WARMUP_EPOCHS) is float
    assert (cfg.BN.MOMENTUM, cfg.BN.EPSILON) == (0.2, 1e-4)
    assert cfg.NUM_GPUS == 8


@pytest.mark.parametrize("path", [None, "", ()])
def test_without_file(path: Any) -> None:
    assert load_cfg(path) == get_cfg()


def test_empty_file_and_empty_section_change_nothing(write: Write) -> None:
    assert load_cfg(write("# nothing\n")) == get_cfg()
    assert load_cfg(write("TRAIN:\n  # BATCH_SIZE: 8\nX3D:\n")) == get_cfg()


def test_result_is_frozen() -> None:
    cfg = load_cfg()
    with pytest.raises(AttributeError):
        cfg.NUM_GPUS = 2
    with pytest.raises(AttributeError):
        cfg.TRAIN.BATCH_SIZE = 2


def test_precedence_later_files_then_options(write: Write) -> None:
    first = write("LOG_PERIOD: 1\nRNG_SEED: 1\nNUM_GPUS: 1", "1.yaml")
    second = write("RNG_SEED: 2\nNUM_GPUS: 2", "2.yaml")
    cfg = load_cfg([first, str(second)], ["NUM_GPUS", "4", "NUM_GPUS", "8"])
    assert (cfg.LOG_PERIOD, cfg.RNG_SEED, cfg.NUM_GPUS) == (1, 2, 8)


def test_options_may_mix_both_forms() -> None:
    cfg = load_cfg(opts=["NUM_GPUS=0", "OUTPUT_DIR", "a=b", "TRAIN.BATCH_SIZE", 4])
    assert (cfg.NUM_GPUS, cfg.OUTPUT_DIR, cfg.TRAIN.BATCH_SIZE) == (0, "a=b", 4)
    assert load_cfg(opts=["DATA.PATH_PREFIX=x=y"]).DATA.PATH_PREFIX == "x=y"


@pytest.mark.parametrize(
    ("key", "given_value", "expected"),
    [
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", 2, 2.0),
        ("SOLVER.CLIP_GRAD_L2NORM", "40", 40.0),
        ("SOLVER.CLIP_GRAD_L2NORM", "None", None),
        ("SOLVER.CLIP_GRAD_L2NORM", "null", None),
        ("SOLVER.BETAS", "[0.5, 0.9]", (0.5, 0.9)),
        ("TRAIN.ENABLE", "False", False),
        ("TRAIN.ENABLE", "false", False),
        ("TRAIN.ENABLE", False, False),
        ("RNG_SEED", "12", 12),
        ("DATA.TRAIN_JITTER_SCALES", "(256, 340)", [256, 340]),
        ("DATA.TRAIN_JITTER_SCALES", (256, 340), [256, 340]),
        ("DATA.MEAN", "[0, 0.5, '1e-1']", [0.0, 0.5, 0.1]),
        ("RESNET.SPATIAL_STRIDES", "[[1],[2],[2],[1]]", [[1], [2], [2], [1]]),
        ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "['backbone.', '1']", ("backbone.", "1")),
        ("OUTPUT_DIR", "2024", "2024"),
        ("DATA.PATH_LABEL_SEPARATOR", ",", ","),
    ],
)
def test_values_take_the_type_of_their_key(key: str, given_value: Any, expected: Any) -> None:
    value = leaf_values(load_cfg(opts=[key, given_value]))[key]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "expectation"),
    [
        ("TRAIN.ENABLE", 1, "True or False"),
        ("TRAIN.ENABLE", "yess", "True or False"),
        ("TRAIN.BATCH_SIZE", True, "an integer such as 64"),
        ("TRAIN.BATCH_SIZE", 8.0, "an integer such as 64"),
        ("TRAIN.BATCH_SIZE", "many", "an integer such as 64"),
        ("TRAIN.BATCH_SIZE", None, "an integer such as 64"),
        ("TRAIN.BATCH_SIZE", {"A": 1}, "an integer such as 64"),
        ("SOLVER.BASE_LR", "fast", "a number such as 0.1"),
        ("SOLVER.BASE_LR", False, "a number such as 0.1"),
        ("SOLVER.BASE_LR", float("nan"), "a number such as 0.1"),
        ("SOLVER.BASE_LR", "1e999", "a number such as 0.1"),
        ("SOLVER.CLIP_GRAD_VAL", "big", "a number or None"),
        ("SOLVER.STEPS", "[0, x]", "a list of numbers"),
        ("DATA.TRAIN_JITTER_SCALES", 256, "a list of integers such as [256, 320]"),
        ("DATA.TRAIN_JITTER_SCALES", [256, 320.5], "a list of integers such as [256, 320]"),
        ("RESNET.SPATIAL_STRIDES", [1, 2, 2, 2], "a list of lists of integers"),
        ("NONLOCAL.LOCATION", [[1, 3]], "a list of lists of lists of integers"),
        ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "backbone.", "a list of texts"),
        ("OUTPUT_DIR", 7, "text such as '.'"),
        ("OUTPUT_DIR", None, "text such as '.'"),
    ],
)
def test_wrong_type_names_key_value_and_expectation(key: str, value: Any, expectation: str) -> None:
    (problem,) = problems_of(opts=(key, value))
    assert problem.startswith(f"command line: {key} is {value!r}: expected {expectation}")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("TRAIN.BACH_SIZE", "TRAIN.BATCH_SIZE"),
        ("TRIAN.BATCH_SIZE", "TRAIN.BATCH_SIZE"),
        ("NUM_CLASSES", "MODEL.NUM_CLASSES"),
        ("DATA.NUM_CLASSES", "MODEL.NUM_CLASSES"),
        ("DATA.INPUT_CHANNEL_SIZES", "DATA.INPUT_CHANNEL_NUM"),
        ("solver.base_lr", "SOLVER.BASE_LR"),
        ("OCTAVE.ALPH", "OCTAVE.ALPHA"),
        ("NUM_GPU", "NUM_GPUS"),
        ("LR.BASE_LR", "SOLVER.BASE_LR"),
        ("TENSORBOARD.LOGDIR", "TENSORBOARD.LOG_DIR"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    (problem,) = problems_of(opts=(key, "3"))
    assert problem == f"command line: unknown key {key} (value '3'): did you mean {nearest}?"


@pytest.mark.parametrize(
    "key", ["FOO.BAR", "TRAIN.CAT", "FOOBAR.ENABLE", "OPTIMIZER", "DATA.COLOUR_SPACE"]
)
def test_far_keys_are_not_offered(key: str) -> None:
    (problem,) = problems_of(opts=(key, "3"))
    assert problem.endswith(f"{key} (value '3'): `octvideo config --keys` prints all keys")


def test_a_doubled_letter_never_hides_a_key() -> None:
    for key in leaf_values(get_cfg()):
        assert _nearest(f"{key}{key[-1]}") == key


def test_all_mistakes_come_in_one_message(write: Write) -> None:
    path = write(
        "TRAIN:\n  BACH_SIZE: 8\nSOLVER:\n  MAX_EPOCH: ten\nOCTAVE: {ALPHA: 1.5}\nMIXUP: 3\n"
    )
    opts = ("TEST.ENABLE", "1", "MODEL.ARCH", "mvit", "RNG_SEED")
    with pytest.raises(ConfigError, match=r"^7 problems in the configuration:\n  1\. ") as caught:
        load_cfg(path, opts)
    text = str(caught.value)
    for part in (
        "command line: RNG_SEED has no value",
        f"{path}:2: unknown key TRAIN.BACH_SIZE (value 8): did you mean TRAIN.BATCH_SIZE?",
        f"{path}:4: SOLVER.MAX_EPOCH is 'ten': expected an integer such as 300",
        f"{path}:5: OCTAVE.ALPHA must be in [0, 1), got 1.5",
        f"{path}:6: MIXUP is 3: it is a section; set its keys, such as MIXUP.ENABLE",
        "command line: TEST.ENABLE is '1': expected True or False",
        "command line: MODEL.ARCH 'mvit' is outside octvideo's scope: set one of c2d, i3d, slow",
    ):
        assert part in text


def test_a_wrong_value_causes_no_second_message() -> None:
    (problem,) = problems_of(opts=("SOLVER.MAX_EPOCH", "ten", "SOLVER.WARMUP_EPOCHS", "500"))
    assert "MAX_EPOCH is 'ten'" in problem


def test_conflict_between_a_file_and_the_defaults_names_the_file(write: Write) -> None:
    path = write("NUM_GPUS: 8\nTRAIN:\n  BATCH_SIZE: 12")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:3: TRAIN.BATCH_SIZE 12 cannot be shared among NUM_GPUS 8")


class TestBase:
    def test_chain_and_list(self, write: Write) -> None:
        write("NUM_GPUS: 2\nRNG_SEED: 2\nLOG_PERIOD: 2", "deep/c.yaml")
        write("_BASE_: c.yaml\nRNG_SEED: 3", "deep/b.yaml")
        write("LOG_PERIOD: 7", "d.yaml")
        cfg = load_cfg(write("_BASE_: [deep/b.yaml, d.yaml]\nNUM_SHARDS: 4"))
        assert (cfg.NUM_GPUS, cfg.RNG_SEED, cfg.LOG_PERIOD, cfg.NUM_SHARDS) == (2, 3, 7, 4)

    def test_own_keys_win_wherever_base_stands(self, write: Write) -> None:
        write("RNG_SEED: 3", "b.yaml")
        assert load_cfg(write("RNG_SEED: 4\n_BASE_: b.yaml")).RNG_SEED == 4

    def test_the_same_base_twice_is_no_circle(self, write: Write) -> None:
        write("RNG_SEED: 3", "b.yaml")
        write("_BASE_: b.yaml", "c.yaml")
        assert load_cfg(write("_BASE_: [b.yaml, c.yaml]")).RNG_SEED == 3

    def test_circle(self, write: Write) -> None:
        write("_BASE_: a.yaml", "b.yaml")
        (problem,) = problems_of(write("_BASE_: b.yaml"))
        assert "b.yaml: _BASE_ leads back to itself" in problem
        assert problem.count("a.yaml") == 2

    def test_missing(self, write: Write) -> None:
        path = write("_BASE_: gone.yaml")
        (problem,) = problems_of(path)
        assert "gone.yaml" in problem
        assert f"which {path} names as its _BASE_" in problem

    def test_wrong_value(self, write: Write) -> None:
        (problem,) = problems_of(write("\n_BASE_: 3"))
        assert "a.yaml:2: _BASE_ is 3: expected one file or a list" in problem

    def test_only_at_the_top_and_in_files(self, write: Write) -> None:
        assert "unknown key TRAIN._BASE_" in problems_of(write("TRAIN: {_BASE_: b.yaml}"))[0]
        assert "unknown key _BASE_" in problems_of(opts=("_BASE_", "b.yaml"))[0]


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        (problem,) = problems_of(tmp_path / "gone.yaml")
        assert problem == f"{tmp_path / 'gone.yaml'}: cannot be read: No such file or directory"

    def test_folder(self, tmp_path: Path) -> None:
        assert "cannot be read" in problems_of(tmp_path)[0]

    def test_syntax_names_the_line(self, write: Write) -> None:
        path = write("TRAIN:\n  ENABLE: True\n  BATCH_SIZE: [1, 2\nTEST: 3\n")
        (problem,) = problems_of(path)
        assert problem.startswith(f"{path}:4: is not valid YAML: ")

    def test_options_are_checked_beside_a_bad_file(self, write: Write) -> None:
        assert len(problems_of(write("a: [", "b.yaml"), ("NUM_GPU", "1"))) == 2

    def test_a_key_given_twice(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        path = write("TRAIN:\n  BATCH_SIZE: 8\nNUM_GPUS: 1\nTRAIN:\n  ENABLE: True\n")
        cfg = load_cfg(path)  # the second section alone, as PyYAML reads it
        assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.ENABLE) == (64, True)
        assert f"{path}:4: TRAIN is given again: line 1 is ignored" in caplog.text
        assert not load_cfg(write("TRAIN: {ENABLE: True, ENABLE: False}")).TRAIN.ENABLE
        assert "TRAIN.ENABLE is given again" in caplog.text

    def test_dotted_key_is_the_same_key(
        self, write: Write, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert load_cfg(write("TRAIN.BATCH_SIZE: 4")).TRAIN.BATCH_SIZE == 4
        assert not caplog.text
        path = write("TRAIN.BATCH_SIZE: 4\nTRAIN: {BATCH_SIZE: 8}")
        assert load_cfg(path).TRAIN.BATCH_SIZE == 8
        assert f"{path}:2: TRAIN.BATCH_SIZE is given again: line 1" in caplog.text

    @pytest.mark.parametrize("text", ["- 1\n- 2\n", "hello"])
    def test_no_mapping(self, write: Write, text: str) -> None:
        assert "expected sections with keys" in problems_of(write(text))[0]

    def test_two_documents(self, write: Write) -> None:
        assert "is not valid YAML" in problems_of(write("NUM_GPUS: 1\n---\nNUM_GPUS: 2\n"))[0]

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"NUM_GPUS: \x01"])
    def test_binary(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.yaml").write_bytes(content)
        assert "a.yaml: is not " in problems_of(tmp_path / "a.yaml")[0]

    @pytest.mark.parametrize(
        "value", ["!!python/object/apply:os.mkdir [{}]", "&a [*a]", "2001-99-99"]
    )
    def test_nothing_runs_and_nothing_loops(self, write: Write, tmp_path: Path, value: str) -> None:
        path = write(f"OUTPUT_DIR: {value.format(tmp_path / 'made')}")
        assert "is not valid YAML" in problems_of(path)[0]
        assert not (tmp_path / "made").exists()


class TestOutsideTheScope:
    def test_values_that_octvideo_has_under_another_name(
        self, write: Write, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(
            "DATA: {DECODING_BACKEND: torchvision}\nTRAIN: {DATASET: ptvkinetics}\n"
            "MODEL: {ARCH: i3d, MODEL_NAME: PTVResNet}\nTEST: {DATASET: ptvkinetics}\n"
        )
        cfg = load_cfg(path, ["DATA.DECODING_BACKEND", "decord"])
        assert (cfg.TRAIN.DATASET, cfg.TEST.DATASET) == ("kinetics", "kinetics")
        assert (cfg.MODEL.MODEL_NAME, cfg.DATA.DECODING_BACKEND) == ("ResNet", "decord")
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 3  # of what an option changed again there is nothing to tell
        assert any("MODEL.MODEL_NAME PTVResNet is read as ResNet" in text for text in told)

    def test_the_decoder_of_torchvision_is_pyav(self, caplog: pytest.LogCaptureFixture) -> None:
        cfg = load_cfg(opts=["DATA.DECODING_BACKEND", "torchvision"])
        assert cfg.DATA.DECODING_BACKEND == "pyav"
        assert "torchvision is read as pyav" in caplog.text

    def test_names_of_its_first_years(self, caplog: pytest.LogCaptureFixture) -> None:
        """It had slowonly for slow, and takes data sets in capitals."""
        opts = ["MODEL.ARCH", "slowonly", "TRAIN.DATASET", "Kinetics", "TEST.DATASET", "Kinetics"]
        cfg = load_cfg(opts=opts)
        assert cfg.MODEL.ARCH == "slow"
        assert cfg.TRAIN.DATASET == cfg.TEST.DATASET == "kinetics"
        assert "MODEL.ARCH slowonly is read as slow" in caplog.text

    def test_sections_are_ignored_with_one_warning(
        self, write: Write, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(
            "MVIT: {MODE: conv, DIM_MUL: [[1, 2.0]]}\n"
            "DETECTION: {ENABLE: False, ALIGNED: True}\nAVA: {FRAME_DIR: x}\n"
            "BENCHMARK: {NUM_EPOCHS: 5}\nTASK: ''\nMODEL: {SINGLE_PATHWAY_ARCH: [c2d]}\n"
            "TENSORBOARD: {ENABLE: True, MODEL_VIS: {ENABLE: True, GRAD_CAM: {ENABLE: True}}}\n"
            "MULTIGRID: {SHORT_CYCLE: False, EPOCH_FACTOR: 1.5}\n"
        )
        with caplog.at_level(logging.WARNING, logger="octvideo"):
            cfg = load_cfg(path)
        (record,) = caplog.records
        for name in (
            *("AVA", "BENCHMARK", "DETECTION", "MODEL.SINGLE_PATHWAY_ARCH", "MVIT"),
            *("MULTIGRID.EPOCH_FACTOR", "TENSORBOARD.MODEL_VIS"),
        ):
            assert name in record.getMessage()
        assert cfg.TENSORBOARD.ENABLE
        assert "MVIT" not in cfg

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("MODEL: {ARCH: mvit}", "MODEL.ARCH"),
            ("MODEL: {MODEL_NAME: MViT}", "MODEL.MODEL_NAME"),
            ("DETECTION: {ENABLE: True}", "DETECTION.ENABLE"),
            ("DEMO: {ENABLE: True, WEBCAM: 0}", "DEMO.ENABLE"),
            ("TRAIN: {DATASET: ava}", "TRAIN.DATASET"),
            ("TEST: {DATASET: Ssv2}", "TEST.DATASET"),
            ("TRAIN: {DATASET: charades}", "TRAIN.DATASET"),
            ("TASK: ssl", "TASK"),
            ("BN: {NORM_TYPE: sub_batchnorm}", "BN.NORM_TYPE"),
            ("MODEL: {DROPCONNECT_RATE: 0.5}", "MODEL.DROPCONNECT_RATE"),
        ],
    )
    def test_what_asks_for_it_is_refused(self, write: Write, text: str, key: str) -> None:
        problem = problems_of(write(text))[0]
        assert problem.split(": ", 1)[1].startswith(f"{key} ")
        assert "outside octvideo's scope" in problem

    @pytest.mark.parametrize("empty", ["", "~", "null", "None"])
    def test_an_empty_value(self, write: Write, empty: str) -> None:
        """Where a key is empty by default it is that; else it needs another setting of it."""
        path = write(
            f"TRAIN:\n  CHECKPOINT_FILE_PATH: {empty}\n  BATCH_SIZE: {empty}\n"
            f"SOLVER: {{STEPS: {empty or '~'}, CLIP_GRAD_VAL: {empty or '~'}}}\n"
        )
        if empty != "None":  # a text there, as any other
            (problem,) = problems_of(path)
            assert problem.startswith(f"{path}:3: TRAIN.BATCH_SIZE is None: expected an integer")
            assert problems_of(path, ("TRAIN.BATCH_SIZE", "")) != []
        else:
            path = write(path.read_text().replace("BATCH_SIZE: None", "BATCH_SIZE: 8"))
        cfg = load_cfg(path, ["TRAIN.BATCH_SIZE", "8"])
        assert (cfg.TRAIN.CHECKPOINT_FILE_PATH, cfg.TRAIN.BATCH_SIZE) == ("", 8)
        assert (cfg.SOLVER.STEPS, cfg.SOLVER.CLIP_GRAD_VAL) == ([], None)

    def test_a_demo_is_shown_the_tool_for_it(self) -> None:
        (problem,) = problems_of(opts=("DEMO.ENABLE", "True"))
        assert "set DEMO.ENABLE False; octvideo predict --cfg" in problem

    def test_an_option_can_take_the_request_back(self, write: Write) -> None:
        load_cfg(write("DETECTION: {ENABLE: True}"), ["DETECTION.ENABLE", "False"])
        load_cfg(opts=["MODEL.DROPCONNECT_RATE", "0", "TASK", ""])


# Values that are possible in any combination.
POSSIBLE = st.fixed_dictionaries(
    {},
    optional={
        "TRAIN.BATCH_SIZE": st.integers(1, 10**6),
        "SOLVER.BASE_LR": st.floats(1e-30, 1e30),
        "SOLVER.CLIP_GRAD_VAL": st.none() | st.floats(1e-6, 1e6),
        "SOLVER.LRS": st.lists(st.floats(0, 10), max_size=4),
        "SOLVER.BETAS": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
        "OCTAVE.ALPHA": st.floats(0, 1, exclude_max=True),
        "OCTAVE.ENABLE": st.booleans(),
        "DATA.MEAN": st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
        "DATA.PATH_PREFIX": st.text(st.characters(codec="utf-8")),
        "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": st.lists(
            st.text(st.characters(codec="utf-8")), max_size=3
        ).map(tuple),
    },
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=POSSIBLE)
def test_dump_reads_back_to_an_equal_tree(tmp_path: Path, values: dict[str, Any]) -> None:
    cfg = load_cfg(opts=[item for pair in values.items() for item in pair])
    assert {key: leaf_values(cfg)[key] for key in values} == values
    path = tmp_path / "dump.yaml"
    path.write_text(dump(cfg), encoding="utf-8")
    again = load_cfg(path)
    assert again == cfg
    assert dump(again) == dump(cfg)
    assert yaml.safe_load(dump(cfg))["TRAIN"]["BATCH_SIZE"] == cfg.TRAIN.BATCH_SIZE


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                *(
                    "TRAIN",
                    "X3D",
                    "_BASE_",
                    "BATCH_SIZE",
                    "a.yaml",
                    "1",
                    "~",
                    "!!str ",
                    "&a ",
                    "*a",
                ),
                *(":", ": ", "\n", "  ", "[", "]", "{", "}", "<<", "- ", "'", "# ", "?", "|", "."),
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_file_loads_or_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ConfigError):
        assert load_cfg(path).is_frozen()


@given(st.text(max_size=30))
def test_any_text_can_be_decoded(text: str) -> None:
    decode(text)
