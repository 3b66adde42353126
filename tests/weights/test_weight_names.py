"""Our rules of names against the lists of the zoos, every entry."""

import json

import pytest
from zoo_files import NAMES, names

from octvideo.weights.names.pyslowfast import caffe2_name
from octvideo.weights.names.pytorchvideo import pytorchvideo_names
from octvideo.weights.names.torchvision import torchvision_names

CAFFE2_MODELS = ("I3D_8x8_R50", "I3D_NLN_8x8_R50", "SLOWFAST_8x8_R50")
PTV_MODELS = (
    *("C2D_8x8_R50", "I3D_8x8_R50", "SLOW_8x8_R50"),
    *("SLOWFAST_4x16_R50", "SLOWFAST_8x8_R50"),
)


@pytest.mark.parametrize("model", CAFFE2_MODELS)
def test_caffe2_names(shared, model):
    golden = names("c2_to_pt_names.json")[model]
    assert {theirs: caffe2_name(theirs) for theirs in golden} == golden


@pytest.mark.parametrize("model", CAFFE2_MODELS)
def test_caffe2_names_are_all_of_a_model(shared, model):
    """But the counters of batch norm, which Caffe2 has not."""
    keys = json.loads((NAMES / "state_dict_keys.json").read_text())[model]
    ours = {caffe2_name(theirs) for theirs in names("c2_to_pt_names.json")[model]}
    assert ours == {key for key in keys if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "blob",
    [
        *(
            "conv1_w_momentum",
            "lr",
            "model_iter",
            "conv1",
            "conv1_riv",
            "pred_s",
            "res2_0_branch2d_w",
        ),
        *("xconv1_w", "conv1_w\n", "t_pool2_subsample_w", "", "_", "res_conv1_bn_w"),
    ],
)
def test_other_blobs_have_no_name(blob):
    assert caffe2_name(blob) is None


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("model", PTV_MODELS)
def test_pytorchvideo_names(shared, model, prefix):
    golden = names("ptv_to_pysf_names.json")[model]
    golden = {theirs.replace("model.", prefix, 1): ours for theirs, ours in golden.items()}
    assert pytorchvideo_names(golden) == golden


def test_unknown_pytorchvideo_names_stay():
    keys = ["blocks.0.conv.weight", "blocks.0.attention.weight", "other"]
    assert list(pytorchvideo_names(keys).values())[1:] == keys[1:]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "s1.pathway0_stem.conv.weight"),
        ("bn1.running_mean", "s1.pathway0_stem.bn.running_mean"),
        ("layer1.0.conv1.weight", "s2.pathway0_res0.branch2.a.weight"),
        ("layer3.5.conv3.weight", "s4.pathway0_res5.branch2.c.weight"),
        ("layer4.2.bn2.bias", "s5.pathway0_res2.branch2.b_bn.bias"),
        ("layer2.0.downsample.0.weight", "s3.pathway0_res0.branch1.weight"),
        ("layer2.0.downsample.1.running_var", "s3.pathway0_res0.branch1_bn.running_var"),
        ("fc.bias", "head.projection.bias"),
        ("layer1.0.se.fc1.weight", "layer1.0.se.fc1.weight"),
    ],
)
def test_torchvision_names(theirs, ours):
    assert torchvision_names([theirs]) == {theirs: ours}
