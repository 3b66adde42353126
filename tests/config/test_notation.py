import pytest

from octvideo.config.notation import RandAugmentSpec, parse_rand_augment


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("rand", RandAugmentSpec(10, 2, 0.0, False, False)),
        ("rand-m9-mstd0.5-inc1", RandAugmentSpec(9, 2, 0.5, True, False)),
        ("rand-m7-n4-mstd0.5-inc1", RandAugmentSpec(7, 4, 0.5, True, False)),
        ("rand-mstd1-w0", RandAugmentSpec(10, 2, 1.0, False, True)),
        ("rand-inc0-n1", RandAugmentSpec(10, 1, 0.0, False, False)),
    ],
)
def test_notation(text: str, spec: RandAugmentSpec) -> None:
    assert parse_rand_augment(text) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("augmix-m3", "begin with 'rand'"),
        ("", "begin with 'rand'"),
        ("rand-m9-x2", "part 'x2'"),
        ("rand-m9-m8", "part 'm8'"),
        ("rand-m9.5", "part 'm9.5'"),
        ("rand-", "part ''"),
        ("rand-m11", "0 to 10"),
        ("rand-inc2", "inc is 0 or 1"),
        ("rand-w1", "only table"),
        ("rand-w0-n14", "lower n"),
    ],
)
def test_what_is_wrong_is_told(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_rand_augment(text)
