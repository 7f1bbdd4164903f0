"""Text as ids of characters."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvescope import data
from curvescope.data.text import CharacterDataset

VOCABULARY = {"a": 3, "b": 0, "c": 7, "\n": 1}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abcab\r\ncxba")
    return path


@given(st.integers(1, 60), st.integers(1, 9))
def test_windows_share_no_character_and_targets_are_the_next_ones(length, context):
    ids = torch.arange(length)

    windows = CharacterDataset(ids, context=context, name="t", vocabulary={})

    assert len(windows) == length // (context + 1)
    inputs, targets = windows.tensors()
    assert torch.equal(targets, inputs + 1)
    both = torch.cat([inputs, targets[:, -1:]], dim=1).reshape(-1)
    assert torch.equal(both, ids[: len(both)])
    for index in range(len(windows)):
        assert torch.equal(windows[index][0], inputs[index])
        assert torch.equal(windows[index][1], targets[index])


def test_characters_outside_the_vocabulary_are_dropped_and_counted(text):
    windows = data.load_text(text, vocabulary=VOCABULARY, context=2)

    assert windows[0][0].tolist() == [3, 0]
    assert windows[0][1].tolist() == [0, 7]
    assert windows[1][0].tolist() == [3, 0]
    assert windows[2][1].tolist() == [0, 3]
    assert windows.notes == (r"2 of 11 characters dropped: '\r', 'x'",)


def test_marks_between_documents_are_taken_out(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ab<|endoftext|>ca")

    whole = data.load_text(path, vocabulary=VOCABULARY, context=3)

    assert whole[0][0].tolist() == [3, 0, 7]
    assert whole.notes == ("1 marks '<|endoftext|>' taken out",)
    kept = data.load_text(path, context=3, marker="")
    assert len(kept) == 4


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"stoi": v, "n": 4}])
def test_a_vocabulary_file_gives_what_the_mapping_gives(tmp_path, text, wrap):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(wrap(VOCABULARY)))

    from_file = data.load_text(text, vocabulary=path, context=2)

    expected = data.load_text(text, vocabulary=VOCABULARY, context=2)
    assert torch.equal(from_file.tensors()[0], expected.tensors()[0])
    assert from_file.vocabulary == VOCABULARY


def test_the_first_windows_are_those_of_the_whole(text):
    whole = data.load_text(text, context=2)
    part = data.load_text(text, context=2, num_samples=2)

    assert len(part) == 2
    assert torch.equal(part.tensors()[1], whole.tensors()[1][:2])
    with pytest.raises(ValueError, match=r"must be at most 3, the size of text.txt"):
        data.load_text(text, context=2, num_samples=4)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("not json", ValueError, "`vocabulary` must be a JSON file"),
        ("[1]", TypeError, "must map characters to ids; got list"),
        ("{}", ValueError, "different integers of at least 0; got 0 entries"),
        ('{"ab": 1}', ValueError, "single characters .* got 'ab': 1"),
        ('{"a": -1}', ValueError, "got 'a': -1"),
        ('{"a": true}', ValueError, "got 'a': True"),
        ('{"a": 1, "b": 1}', ValueError, "got 2 entries"),
    ],
)
def test_a_wrong_vocabulary_is_refused(tmp_path, text, content, kind, message):
    path = tmp_path / "v.json"
    path.write_text(content)

    with pytest.raises(kind, match=message):
        data.load_text(text, vocabulary=path)


def test_a_missing_short_or_binary_text_is_refused(tmp_path, text):
    with pytest.raises(FileNotFoundError, match="`path` must name an existing file"):
        data.load_text(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match=r"hold more than 32 characters .* got 11"):
        data.load_text(text)
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="`path` must be a text in UTF-8"):
        data.load_text(text)
