"""Speakers, meetings, clusters and groups."""

import numpy as np
import pytest

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.wer.grouping import (
    Labels,
    label,
    make_clusters,
    make_groups,
    overlap_shares,
    split_trn_id,
)

AMI = "AMI_ES2011a_H00_FEE041_0003415_0003484"


@pytest.mark.parametrize(
    "utt_id, split",
    [
        ("1089-134686-1089-134686-0000", ("1089-134686", "1089-134686-0000")),
        ("19-198-19-198-0000", ("19-198", "19-198-0000")),
        ("a-b-a-b_1", ("a-b", "a-b_1")),
        ("s1-u-1", ("s1", "u-1")),
        ("u1", (None, "u1")),
    ],
)
def test_split_trn_id(utt_id, split):
    assert split_trn_id(utt_id) == split


@pytest.mark.parametrize(
    "utt_id, labels",
    [
        (AMI, Labels("FEE041", "ES2011a", "H00", 34.15, 34.84)),
        # For distant microphones, the meeting takes the place of the speaker.
        (
            "AMI_ES2011a_SDM_-AMI_ES2011a_SDM_FEE041_0003415_0003484",
            Labels("FEE041", "ES2011a", "SDM", 34.15, 34.84),
        ),
        # The reader, not the chapter.
        ("1089-134686-1089-134686-0000", Labels("1089")),
        ("1089-134686-0000", Labels("1089")),
        ("1089-134686-0000-1089-134686-0000", Labels("1089")),
        ("m1-m1_u", Labels("m1")),
        ("u1-u1", Labels()),  # unknown speaker
        ("u1", Labels()),
    ],
)
def test_labels_of_ids(utt_id, labels):
    assert label([utt_id]) == [labels]


def test_labels_of_a_data_directory(tmp_path):
    (tmp_path / "utt2spk").write_text("u1 bob\nu2 ann\n")
    assert label(["u1", "ann-u2"], tmp_path) == [Labels("bob"), Labels("ann")]
    (tmp_path / "segments").write_text("u1 rec 0.5 2\nu2 rec 3 4\n")
    assert label(["bob-u1"], tmp_path) == [Labels("bob", "rec", None, 0.5, 2.0)]
    # To the end of the recording, whose duration is unknown
    (tmp_path / "segments").write_text("u1 rec 0.5 -1\nu2 rec 3 4\n")
    labels = label(["u1", "u2"], tmp_path)
    assert labels[0] == Labels("bob", "rec", None, 0.5)
    assert overlap_shares(labels) == [None, 0.0]
    # All chapters of a reader count as one speaker.
    (tmp_path / "utt2spk").write_text("1-2-u1 1-2\n1-3-u2 1-3\n")
    (tmp_path / "segments").unlink()
    assert label(["1-2-u1", "1-3-u2"], tmp_path) == [Labels("1"), Labels("1")]
    with pytest.raises(DataError, match="utt2spk: lacks u3"):
        label(["u3"], tmp_path)


def test_default_clusters():
    many = [Labels(f"s{i % 5}") for i in range(20)]
    assert make_clusters(many).name == "5 speakers"
    np.testing.assert_array_equal(make_clusters(many).codes, np.arange(20) % 5)
    assert make_clusters(many[:4]).name == "4 utterances"  # too few speakers
    assert make_clusters([*many, Labels()]).name == "21 utterances"
    meetings = [Labels("x", f"m{i}", "H00", 0, 1) for i in range(6)]
    assert make_clusters(meetings).name == "6 meetings"
    assert make_clusters(meetings, "speaker").name == "1 speaker"
    assert make_clusters(many, "utterance").name == "20 utterances"
    with pytest.raises(ConfigError, match="--cluster meeting: ids do not tell"):
        make_clusters(many, "meeting")


def test_overlap():
    labels = [
        Labels("a", "m", None, 0.0, 10.0),
        Labels("b", "m", None, 2.0, 4.0),
        Labels("c", "m", None, 3.0, 5.0),
        Labels("a", "m", None, 9.0, 11.0),  # the same speaker
        Labels("b", "n", None, 0.0, 10.0),  # another meeting
        Labels(),
    ]
    assert overlap_shares(labels) == [0.3, 1.0, 1.0, 0.0, 0.0, None]
    groups = make_groups(list("uvwxy"), labels[:5], "overlap")
    assert {name: indices.tolist() for name, indices in groups.items()} == {
        "overlap 0 %": [3, 4],
        "overlap below 50 %": [0],
        "overlap from 50 %": [1, 2],
    }
    half = [Labels("a", "m", None, 0.0, 2.0), Labels("b", "m", None, 1.0, 3.0)]
    assert list(make_groups(["u", "v"], half, "overlap")) == ["overlap from 50 %"]


def test_overlap_is_that_of_a_sampled_time_axis():
    rng = np.random.default_rng(0)
    begins, lengths = rng.integers(0, 1000, 60), rng.integers(1, 80, 60)
    labels = [
        Labels(f"s{i % 4}", f"m{i % 2}", None, b / 10, (b + n) / 10)
        for i, (b, n) in enumerate(zip(begins.tolist(), lengths.tolist(), strict=True))
    ]
    for i, share in enumerate(overlap_shares(labels)):
        others = [
            j for j in range(60) if j % 2 == i % 2 and j % 4 != i % 4
        ]  # same meeting, another speaker
        covered = sum(
            any(begins[j] <= t < begins[j] + lengths[j] for j in others)
            for t in range(begins[i], begins[i] + lengths[i])
        )
        assert share == pytest.approx(covered / lengths[i])


def test_groups_of_a_file(tmp_path):
    path = tmp_path / "groups"
    path.write_text("u1 long\nu2 short\nu3 long\n")
    groups = make_groups(["s-u1", "u2", "u3"], [Labels()] * 3, str(path))
    assert {name: indices.tolist() for name, indices in groups.items()} == {
        "long": [0, 2],
        "short": [1],
    }
    with pytest.raises(DataError, match="lacks 1 of 1 utterances, u4 the first"):
        make_groups(["u4"], [Labels()], str(path))


def test_unknown_groups():
    with pytest.raises(ConfigError, match="--by microphone: ids do not tell"):
        make_groups(["u"], [Labels("a")], "microphone")
