"""What octvideo does not do: tables that turn such settings into a clear answer.

A setting is never dropped in silence. Parts of PySlowFast outside octvideo's scope are ignored
with a warning, or refused where the file asks for them; what is planned but missing is refused.
"""

# Sections and keys of PySlowFast that octvideo has no use for. They are ignored with a warning.
IGNORED: tuple[str, ...] = (
    *("AVA", "BENCHMARK", "CONTRASTIVE", "DEMO", "DETECTION", "MASK", "MVIT", "SSL"),
    "VIS_MASK",
    *("AUG.MASK_FRAMES", "AUG.MASK_RATIO", "AUG.MASK_TUBE", "AUG.MASK_WINDOW_SIZE"),
    "AUG.MAX_MASK_PATCHES_PER_BLOCK",
    *("BN.GLOBAL_SYNC", "BN.NUM_SPLITS", "BN.NUM_SYNC_DEVICES"),
    *("DATA.DECODING_SHORT_SIZE", "DATA.IN22K_TRAINVAL", "DATA.IN22k_VAL_IN1K"),
    *("DATA.LOADER_CHUNK_OVERALL_SIZE", "DATA.LOADER_CHUNK_SIZE"),
    *("DATA.PATH_TO_PRELOAD_IMDB", "DATA.SSL_BLUR_SIGMA_MAX", "DATA.SSL_BLUR_SIGMA_MIN"),
    *("DATA.SSL_COLOR_BRI_CON_SAT", "DATA.SSL_COLOR_HUE"),
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE",
    *("MODEL.FP16_ALLREDUCE", "MODEL.MULTI_PATHWAY_ARCH", "MODEL.SINGLE_PATHWAY_ARCH"),
    *("MULTIGRID.BN_BASE_SIZE", "MULTIGRID.DEFAULT_B", "MULTIGRID.DEFAULT_S"),
    *("MULTIGRID.DEFAULT_T", "MULTIGRID.EPOCH_FACTOR", "MULTIGRID.EVAL_FREQ"),
    *("MULTIGRID.LONG_CYCLE_FACTORS", "MULTIGRID.LONG_CYCLE_SAMPLING_RATE"),
    "MULTIGRID.SHORT_CYCLE_FACTORS",
    *("SOLVER.STEP_SIZE", "SOLVER.WARMUP_FACTOR"),
    *("TENSORBOARD.CATEGORIES_PATH", "TENSORBOARD.CLASS_NAMES_PATH"),
    *("TENSORBOARD.CONFUSION_MATRIX", "TENSORBOARD.HISTOGRAM", "TENSORBOARD.MODEL_VIS"),
    *("TENSORBOARD.PREDICTIONS_PATH", "TENSORBOARD.WRONG_PRED_VIS"),
    *("TRAIN.CHECKPOINT_IN_INIT", "TRAIN.KILL_LOSS_EXPLOSION_FACTOR"),
)

# Keys of older versions of octvideo, for variants of the operator; these are the paper's.
ABLATIONS: dict[str, object] = {
    "OCTAVE.DOWNSAMPLE": "avg",
    "OCTAVE.PATHS": "both",
    "OCTAVE.UPSAMPLE_FIRST": False,
}

# Keys of PySlowFast that ask for something outside octvideo's scope, unless they have this value.
REFUSED: dict[str, object] = {
    "AUG.GEN_MASK_LOADER": False,
    "DATA.COLOR_RND_GRAYSCALE": 0.0,
    "DATA.SKIP_ROWS": 0,
    "DATA.SSL_COLOR_JITTER": False,
    "DATA.SSL_MOCOV2_AUG": False,
    "DATA.TIME_DIFF_PROB": 0.0,
    "DATA.TRAIN_CROP_NUM_SPATIAL": 1,
    "DATA.TRAIN_CROP_NUM_TEMPORAL": 1,
    "DATA.TRAIN_JITTER_MOTION_SHIFT": False,
    "DEMO.ENABLE": False,
    "DETECTION.ENABLE": False,
    "MASK.ENABLE": False,
    "MODEL.DETACH_FINAL_FC": False,
    "MODEL.DROPCONNECT_RATE": 0.0,
    **ABLATIONS,
    "SOLVER.LAYER_DECAY": 1.0,
    "TASK": "",
    "VIS_MASK.ENABLE": False,
}

# What octvideo has for some of them, to be told after the above.
INSTEAD: dict[str, str] = {
    **dict.fromkeys(ABLATIONS, "; `python -m studies.ablation` of a clone runs such variants"),
    "DEMO.ENABLE": "; octvideo predict --cfg FILE --checkpoint FILE recognises videos",
}

# Values of known keys that PySlowFast has and octvideo will not have (compared in lower case).
_OTHER_DATA = ("ava", "charades", "ptvcharades", "ptvssv2", "ssv2")
FOREIGN_VALUES: dict[str, tuple[str, ...]] = {
    "BN.NORM_TYPE": ("sub_batchnorm",),
    "MODEL.ARCH": ("maskmvit", "mvit"),
    "MODEL.LOSS_FUNC": ("bce", "contrastive_loss", "mse", "multi_mse"),
    "MODEL.MODEL_NAME": (*("contrastivemodel", "maskmvit", "mvit", "ptvmvit"),),
    "SOLVER.OPTIMIZING_METHOD": ("mt_adamw",),
    "TEST.DATASET": _OTHER_DATA,
    "TRAIN.DATASET": _OTHER_DATA,
}

# Values of known keys that PySlowFast has and for which octvideo has one of its own. They are
# replaced, with a warning. (PySlowFast takes data sets in capitals; slow was slowonly in its first
# files.)
_SAME_DATA = {
    **dict.fromkeys(("Kinetics", "Ptvkinetics", "ptvkinetics"), "kinetics"),
    **dict.fromkeys(("ImageNet", "Imagenet"), "imagenet"),
}
REPLACED_VALUES: dict[str, dict[str, str]] = {
    "DATA.DECODING_BACKEND": {"torchvision": "pyav"},
    "MODEL.ARCH": {"slowonly": "slow", "c2d_nopool": "slow_c2d", "i3d_nopool": "slow_i3d"},
    "MODEL.MODEL_NAME": {
        **dict.fromkeys(("PTVResNet", "PTVR2plus1D", "PTVCSN"), "ResNet"),
        "PTVSlowFast": "SlowFast",
    },
    "TEST.DATASET": _SAME_DATA,
    "TRAIN.DATASET": _SAME_DATA,
}

# Known keys whose feature is planned but missing: the values that work today, and the feature.
NOT_YET: dict[str, tuple[tuple[object, ...], str]] = {
    "DATA.DUMMY_LOAD": ((False,), "training on random clips"),
    "DATA.MULTI_LABEL": ((False,), "several labels a video"),
    "MODEL.FROZEN_BN": ((False,), "frozen batch norm"),
    "MULTIGRID.LONG_CYCLE": ((False,), "multigrid training"),
    "MULTIGRID.SHORT_CYCLE": ((False,), "multigrid training"),
}


def ignored_name(key: str) -> str | None:
    """The entry of ``IGNORED`` that covers a key: "X3D" for "X3D.DIM_C1"; None if none does."""
    return next((name for name in IGNORED if f"{key}.".startswith(f"{name}.")), None)
