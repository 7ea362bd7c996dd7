"""Phone information in labels on disk, whatever their source."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from espnet2.train.dataset import ESPnetDataset

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.alignments import phone_classes, read_alignments
from espnet2_birq.evaluation.phones.units import UnitScores, score_units
from espnet2_birq.reading import refusing

APART = 0.25  # seconds by which labels and alignment may differ in length


class LabelScores(NamedTuple):
    """Agreement of labels on disk with phones.

    Attributes:
        scores: PNMI and use of the labels.
        codes: Number of distinct labels.
        frames: Frames that have a label and a phone.
        utterances: Utterances that have labels and an alignment.
    """

    scores: UnitScores
    codes: int
    frames: int
    utterances: int


def score_labels(
    data: str, alignment: Path, rate: float, silence: bool = True, tier: str = "phones"
) -> LabelScores:
    """Compare labels on disk with phones.

    Args:
        data: FILE,labels,TYPE, as for ssl_train.
        alignment: See read_alignments().
        rate: Labels per second.
        silence: Whether silence is a class; otherwise its frames are left out.
        tier: Tier of TextGrids.

    Raises:
        ConfigError: Invalid `data` or `rate`.
        DataError: There are no such labels, no utterance has both, the labels are at another
            rate, or all frames are of one phone.
    """
    parts = data.split(",")
    if len(parts) != 3 or rate <= 0:
        raise ConfigError(f"--labels {data} --rate {rate}: give FILE,labels,TYPE, > 0")
    if not Path(parts[0]).is_file():
        raise DataError(f"{parts[0]}: no such file, the labels")
    not_labels = f"not labels of type {parts[2]}"
    with refusing(parts[0], not_labels):
        dataset = ESPnetDataset([(parts[0], "labels", parts[2])])
    alignments = read_alignments(alignment, set(dataset), tier)
    classes = phone_classes(alignments.values(), silence)
    phones, units = [np.zeros(0, int)], [np.zeros(0, int)]
    bad = 0
    for name, one in alignments.items():
        with refusing(parts[0], not_labels):
            labels = dataset[name][1]["labels"]
        if (labels < 0).all():  # of bad audio, whose length dump_labels may not know
            bad += 1
            continue
        if abs(len(labels) / rate - one.seconds) > APART:
            raise DataError(
                f"{parts[0]}: {name}: {len(labels)} labels are {len(labels) / rate:.2f} "
                f"s at --rate {rate:g}, its alignment {one.where} ends at "
                f"{one.seconds:.2f} s"
            )
        numbers = one.frame_labels(len(labels), 1 / rate, classes)
        both = (numbers >= 0) & (labels >= 0)
        phones.append(numbers[both])
        units.append(labels[both])
    if len(alignments) < len(dataset.loader_dict["labels"]):
        logging.info(f"{len(alignments)} utterances of {parts[0]} have an alignment")
    if bad:
        logging.warning(
            f"{parts[0]}: {bad} utterances have only the label -1: left out"
        )
    found = np.concatenate(units)
    if not len(found):
        raise DataError(f"{parts[0]}: no frame has both a label and a phone")
    told = np.concatenate(phones)
    if len(np.unique(told)) < 2:
        raise DataError(
            f"{alignment}: all frames that have a label are of one phone; give more speech"
        )
    scores = score_units(told, found)
    used = len(alignments) - bad
    return LabelScores(scores, len(np.unique(found)), len(found), used)
