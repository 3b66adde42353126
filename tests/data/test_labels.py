"""Class names: those that are packaged, and those of files."""

import hashlib
import json

import pytest

from octvideo.data.labels import class_names
from octvideo.utils.errors import UserError


@pytest.mark.parametrize(("name", "count"), [("kinetics400", 400), ("kinetics600", 600)])
def test_packaged_names_are_in_the_order_of_the_labels(name, count):
    names = class_names(name)
    assert len(names) == len(set(names)) == count
    assert names == sorted(names)  # the labels of Kinetics are alphabetical
    assert not any(text != text.strip() or '"' in text for text in names)


def test_labels_of_kinetics400_are_those_of_pyslowfast():
    # some lines of its kinetics_classnames.json
    known = {
        "abseiling": 0, "bee keeping": 17, "changing wheel": 53, "deadlifting": 88,
        "eating cake": 110, "hurling (sport)": 161, "marching": 192, "parkour": 207,
        "passing American football (in game)": 208, "passing American football (not in game)": 209,
        "playing harp": 234, "riding or walking with horse": 273, "sharpening knives": 290,
        "skiing (not slalom or crosscountry)": 308, "springboard diving": 329,
        "throwing discus": 358, "using segway": 375, "vault": 376, "yoga": 398, "zumba": 399,
    }  # fmt: skip
    names = class_names("kinetics400")
    assert {name: names.index(name) for name in known} == known


# Of the names joined by line breaks, from lists that other projects publish.
PUBLISHED = {
    "kinetics400": "a8dafb93a1204d4ecfa904f943ce5ee0c62ddeeb1df71aa1f96983fca17d777e",
    "kinetics600": "5d9a560f98fcfed08f6129dd498f97e043edf729efb3c02dd96b482d2970f9c0",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_is_the_published_one(name):
    digest = hashlib.sha256("\n".join(class_names(name)).encode()).hexdigest()
    assert digest == PUBLISHED[name]


@pytest.mark.parametrize(
    "content",
    [
        ["b", "a"],
        {"a": 1, "b": 0},
        {'"a"': 1, '"b"': 0},
        {"a": "1", "b": "0"},
        {"1": "a", "0": "b"},
        {"0": ["n01440764", "b"], "1": ["n01443537", "a"]},
    ],
)
def test_files(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content))
    assert class_names(path) == class_names(str(path)) == ["b", "a"]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Notepad and PowerShell save it
    assert class_names(path) == ["b", "a"]


TEXTS = {
    "lines": "bee keeping\nair drumming\n",
    "windows": "\ufeffbee keeping\r\nair drumming\r\n\r\n",
    "label first": "1 air drumming\n0 bee keeping",
    "label last": "bee keeping 0\nair drumming 1",
    "tabs": "0\tbee keeping\n1\tair drumming",
    "colons": "0: bee keeping\n1: air drumming",
    "table": "id,name\n0,bee keeping\n1,air drumming\n",
    "quotes": 'name,label\n"bee keeping",0\n"air drumming",1\n',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["classes.txt", "classes.csv", "classes"])
def test_text_files(tmp_path, text, name):
    (tmp_path / name).write_bytes(TEXTS[text].encode())
    assert class_names(tmp_path / name) == ["bee keeping", "air drumming"]


def test_names_with_numbers_and_commas(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("passing, in game\n3 point shot\nmp4 9\n")
    assert class_names(path) == ["passing, in game", "3 point shot", "mp4 9"]
    path.write_text("class 1\nclass 2\n")
    assert class_names(path) == ["class 1", "class 2"]
    path.write_text("dancing\u2028tango\nwalking\n")  # only a line break ends a line
    assert class_names(path) == ["dancing\u2028tango", "walking"]


@pytest.mark.parametrize("text", ["1 a\n2 b", "0 a\n0 b", "a 0\nb 2", "a\na", ""])
def test_text_files_that_are_none(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"names\.txt"):
        class_names(path)


@pytest.mark.parametrize(
    "content",
    [
        *('{"a": 0, "b": 2}', '{"a": 0, "b": 0}', "[1, 2]", "3", "a", '{"a": [0]}', '{"0": []}'),
        *('{"0": 1, "1": 2}', '{"a": true, "b": false}', '{"0": "a", "2": "b"}'),
    ],
)
def test_files_that_are_none(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"names\.json"):
        class_names(path)


def test_no_file():
    with pytest.raises(UserError, match="kinetics400"):
        class_names("kinetics500")
