"""Labels from disk: one or several streams, and faulty ones."""

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from test_model import make_batch, make_model

from espnet2_birq.errors import DataError

GIVEN = dict(name="given", labeller_conf=dict(codebook_size=7))


def test_labels_from_disk():
    """Only labelled frames are predicted; missing labels or a wrong rate are named."""
    model = make_model([GIVEN])
    speech, lengths = make_batch()
    labels = torch.randint(7, (3, 40))
    labels[0] = -1
    _, stats, _ = model(speech, lengths, labels=labels, labels_lengths=None)
    assert 0 < stats["loss_given"] and "hit_given" not in stats
    same = torch.full((3, 40), 5)
    _, stats, _ = model(speech, lengths, labels=same)
    assert stats["label_ppl_given"] == pytest.approx(1.0)
    with pytest.raises(
        DataError, match="80 labels 'labels' for 39 .*view 'labels every 2' takes"
    ):
        model(speech, lengths, labels=torch.zeros(3, 80))
    with pytest.raises(DataError, match="an objective has view 'labels': give"):
        model(speech, lengths)


def test_one_label_per_frame_of_long_windows():
    """The reflection at an utterance's end adds no frames, here four."""
    model = make_model([GIVEN], input_layer="linear")
    model.frontend = DefaultFrontend(n_fft=1024, hop_length=160, n_mels=20)
    speech, lengths = make_batch()
    labels = torch.randint(7, (3, int(lengths.max()) // 160 + 1))
    _, stats, _ = model(speech, lengths, labels=labels)
    assert 0 < stats["loss_given"]
    feats = model.collect_feats(speech, lengths)
    assert feats["feats"].size(1) == feats["feats_lengths"].max() == labels.size(1)


def test_several_streams_of_labels_from_disk():
    """Each objective reads its own stream; two objectives may share one."""
    rows = [
        GIVEN,
        {**GIVEN, "name": "low", "view": "labels low", "head": "low"},
        {**GIVEN, "name": "fast", "view": "labels fast every 2", "head": "fast"},
    ]
    for row in rows[1:]:
        row["labeller"] = "given"
    model = make_model(rows)
    speech, lengths = make_batch()
    one = torch.full((3, 39), 5)
    low = torch.arange(39).repeat(3, 1) % 7
    # The second label of each pair is used: 0 6 0 6 ...
    fast = torch.stack([torch.full((39,), 3), torch.arange(39) % 2 * 6], dim=1)
    streams = dict(labels=one, low=low, fast=fast.flatten().repeat(3, 1))
    _, stats, _ = model(speech, lengths, **streams)
    assert stats["label_ppl_given"] == pytest.approx(1.0)
    assert stats["label_ppl_low"] > 5
    assert 1.5 < stats["label_ppl_fast"] <= 2.0
    with pytest.raises(DataError, match="view 'labels low': give .*labels.scp,low,"):
        model(speech, lengths, labels=one, fast=streams["fast"])
    with pytest.raises(DataError, match="39 labels 'fast' for 39 encoder frames"):
        model(speech, lengths, **{**streams, "fast": one})


def test_wrong_labels_of_one_utterance_are_named():
    """Also if it is not the longest of its batch, and before indexing fails."""
    model = make_model([GIVEN])
    speech, lengths = make_batch()
    batch = dict(labels=torch.zeros(3, 39, dtype=torch.long), utt_id=["a", "b", "c"])
    model(speech, lengths, **batch, labels_lengths=torch.tensor([39, 27, 15]))
    with pytest.raises(DataError, match="of b: 13 labels for 27 .*another rate"):
        model(speech, lengths, **batch, labels_lengths=torch.tensor([39, 13, 17]))
    with pytest.raises(DataError, match="of c: 33 labels for 17 .*labels every 2'"):
        model(speech, lengths, **batch, labels_lengths=torch.tensor([39, 26, 33]))
    for label in (7, -2):
        batch["labels"][2, 3] = label
        with pytest.raises(DataError, match="of 7 and more, in c, .*size is 7: labels"):
            model(speech, lengths, **batch, labels_lengths=torch.tensor([39, 26, 16]))


@pytest.mark.parametrize("labels", [1, 250])
def test_a_batch_of_bad_audio_alone_is_unlabelled(labels):
    """Its noise has another length than its labels, which are all -1."""
    model = make_model([{"name": "anchor"}, GIVEN])
    speech = torch.randn(1, 16000)
    loss, stats, _ = model(
        speech,
        torch.tensor([16000]),
        labels=torch.full((1, labels), -1),
        labels_lengths=torch.tensor([labels]),
        utt_id=["bad"],
    )
    assert loss.isfinite() and stats["loss_anchor"] > 0
    assert stats["loss_given"].isnan()  # left out of averages over steps


def test_the_longest_utterance_has_no_labels():
    """Its one -1 says nothing about the rate of the others' labels."""
    model = make_model([GIVEN])
    speech, lengths = make_batch()
    order = lengths.argsort(descending=True)
    speech, lengths = speech[order], torch.tensor([lengths.max(), *[6400] * 2])
    labels = torch.randint(7, (3, 11))
    labels[0] = -1
    _, stats, _ = model(speech, lengths, labels=labels)
    assert 0 < stats["loss_given"]
    with pytest.raises(DataError, match="22 labels 'labels' for 9 .*'labels every 2'"):
        longer = torch.randint(7, (3, 22))
        longer[0] = -1
        model(speech, lengths, labels=longer)
