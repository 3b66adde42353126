"""The non-local block against its formula, position by position."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import NonLocal3d

SHAPE = (2, 6, 4, 5, 7)  # N, C, T, H, W


def block(channels=6, **options) -> NonLocal3d:
    torch.manual_seed(0)
    layer = NonLocal3d(channels, **options).double()
    nn.init.uniform_(layer.bn.weight, 0.5, 1)
    nn.init.uniform_(layer.bn.running_mean, -0.5, 0.5)
    return layer.eval()


def value(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def matrix(conv: nn.Conv3d) -> Tensor:
    return conv.weight.flatten(1)


def by_hand(layer: NonLocal3d, x: Tensor, seen: Tensor, instantiation: str) -> Tensor:
    """x + bn(out(sum_k a_qk g_k)) for every position q, one after another."""
    n, c, t, h, w = x.shape
    queries, keys = x.flatten(2), seen.flatten(2)
    y = torch.empty(n, c, queries.shape[2], dtype=x.dtype)
    for i in range(n):
        phi = matrix(layer.conv_phi) @ keys[i] + layer.conv_phi.bias[:, None]
        g = matrix(layer.conv_g) @ keys[i] + layer.conv_g.bias[:, None]
        for q in range(queries.shape[2]):
            theta = matrix(layer.conv_theta) @ queries[i, :, q] + layer.conv_theta.bias
            if instantiation == "softmax":
                weights = ((theta @ phi) / len(theta) ** 0.5).exp()
                weights = weights / weights.sum()
            else:
                weights = theta @ phi / phi.shape[1]
            y[i, :, q] = matrix(layer.conv_out) @ (g @ weights) + layer.conv_out.bias
    bn = layer.bn
    y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    return x + y.reshape(n, c, t, h, w)


@pytest.mark.parametrize("instantiation", ["softmax", "dot_product"])
@pytest.mark.parametrize("pool_size", [(1, 2, 2), (2, 2, 3), (1, 1, 1)], ids=str)
def test_plain(instantiation: str, pool_size: tuple[int, int, int]) -> None:
    layer, x = block(instantiation=instantiation, pool_size=pool_size), value(*SHAPE)
    seen = F.max_pool3d(x, pool_size)
    torch.testing.assert_close(layer(x), by_hand(layer, x, seen, instantiation))


@pytest.mark.parametrize("instantiation", ["softmax", "dot_product"])
def test_octave_cross(instantiation: str) -> None:
    """H asks, L answers without a pool in space, and L stays as it is."""
    layer = block((6, 3), instantiation=instantiation)
    x_h, x_l = value(2, 6, 4, 5, 7), value(2, 3, 4, 3, 4)
    y_h, y_l = layer((x_h, x_l))
    assert y_l is x_l
    torch.testing.assert_close(y_h, by_hand(layer, x_h, x_l, instantiation))
    assert layer.conv_theta.weight.shape[:2] == (3, 6)
    assert layer.conv_phi.weight.shape[:2] == layer.conv_g.weight.shape[:2] == (3, 3)
    pooled = block((6, 3), instantiation=instantiation, pool_size=(2, 2, 2))
    want = by_hand(layer, x_h, F.max_pool3d(x_l, (2, 1, 1)), instantiation)
    torch.testing.assert_close(pooled((x_h, x_l))[0], want)


def test_octave_high_is_the_plain_block_on_the_high_frequency() -> None:
    layer, plain = block((6, 3), octave_mode="high"), block(6)
    x_h, x_l = value(2, 6, 4, 5, 7), value(2, 3, 4, 3, 4)
    y_h, y_l = layer((x_h, x_l))
    assert torch.equal(y_h, plain(x_h))
    assert y_l is x_l


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("channels", [6, (6, 3)], ids=str)
def test_groups_do_not_see_each_other(groups: int, channels) -> None:
    layer, whole = block(channels, groups=groups), block(channels)
    x_h, x_l = value(*SHAPE), value(2, 3, 4, 3, 4)
    x = x_h if channels == 6 else (x_h, x_l)
    parts = []
    for part in range(groups):
        frames = slice(part * 4 // groups, (part + 1) * 4 // groups)
        piece = x_h[:, :, frames] if channels == 6 else (x_h[:, :, frames], x_l[:, :, frames])
        parts.append(whole(piece))
    if channels == 6:
        torch.testing.assert_close(layer(x), torch.cat(parts, 2))
    else:
        torch.testing.assert_close(layer(x)[0], torch.cat([high for high, _ in parts], 2))


@pytest.mark.parametrize("channels", [6, (6, 3)], ids=str)
def test_a_new_block_is_the_identity(channels) -> None:
    x = value(*SHAPE).float()
    x = x if channels == 6 else (x, value(2, 3, 4, 3, 4).float())
    layer = NonLocal3d(channels)
    for y in (layer(x), layer.eval()(x)):
        torch.testing.assert_close(y, x)


def test_gradients() -> None:
    layer = block((4, 2)).train()
    x = (value(1, 4, 2, 3, 4).requires_grad_(), value(1, 2, 2, 2, 2).requires_grad_())
    assert torch.autograd.gradcheck(lambda *x: layer(x)[0], x)


def test_a_map_smaller_than_the_pool() -> None:
    x = value(2, 6, 1, 1, 3)
    layer = block(pool_size=(2, 2, 2))
    torch.testing.assert_close(layer(x), by_hand(layer, x, x[..., :2].amax(-1, True), "softmax"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instantiation": "gaussian"}, "'gaussian' is not one of softmax, dot_product"),
        ({"octave_mode": "low"}, "'low' is not one of cross, high"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonLocal3d(8, **options)


def test_wrong_values() -> None:
    with pytest.raises(ValueError, match="4 frames cannot be cut into 3 equal groups"):
        block(groups=3)(value(*SHAPE))
    with pytest.raises(ValueError, match="takes a pair"):
        block((4, 2))(value(*SHAPE))
    with pytest.raises(ValueError, match="expects 6 high channels"):
        block()(value(2, 5, 4, 5, 7))
