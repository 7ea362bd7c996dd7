#!/usr/bin/env python3
"""Mean and covariance of the input frames that labels are made of.

Targets of the input with `projection: pca` or `projection: whitened` start from these.
Where the configuration has no such target, nothing is read or written.
Takes the options of ssl_train, so that features are those of training:

  python -m espnet2_birq.bin.frame_statistics --config conf/train_birq.yaml \\
      --train_data_path_and_name_and_type dump/raw/train/wav.scp,speech,sound \\
      --statistics exp/ssl_stats_raw/train/frame_statistics.npz

  python -m espnet2_birq.bin.ssl_train ... \\
      --frame_statistics exp/ssl_stats_raw/train/frame_statistics.npz
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.data.audio import NOT_FINITE, are_finite
from espnet2_birq.data.collate import check_first_audio, refuse_channels
from espnet2_birq.data.stream import draw
from espnet2_birq.encoder.layers import subsampling_factor
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.ssl.frame_statistics import FrameStatistics
from espnet2_birq.ssl.masking import stack_frames
from espnet2_birq.ssl.target import parse_targets
from espnet2_birq.tasks.ssl import SSLTask


def get_parser() -> argparse.ArgumentParser:
    """Options of this command; all others are those of ssl_train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--statistics", required=True, help="File to write (.npz), whole or not at all"
    )
    parser.add_argument(
        "--max_utterances",
        type=int,
        default=2000,
        help="Utterances to use, drawn with a fixed seed; 100,000 frames are plenty",
    )
    return parser


def draw_utterances(scp: Path, number: int):
    """Ids of `number` utterances of an scp file, in the file's order."""
    with open(scp, encoding="utf-8") as lines:
        ids = (line.split(maxsplit=1)[0] for line in lines if line.strip())
        drawn = draw(ids, number)
    if not drawn:
        raise DataError(f"{scp}: no utterance in it")
    return drawn


@torch.no_grad()
def frame_statistics(
    args: argparse.Namespace, max_utterances: int
) -> FrameStatistics | None:
    """Go through utterances of the training data.

    Args:
        args: Options of ssl_train.
        max_utterances: How many utterances to use.

    Returns:
        Statistics of their normalised frames, stacked as the encoder joins them; None
        if no target of the configuration wants any.
    """
    wanted = args.targets
    args.targets = [dict(name="anchor")]  # what is to be computed cannot be asked for
    model = SSLTask.build_model(args).eval()
    targets = parse_targets(wanted, len(model.encoder.encoders))
    if not any(target.wants_frame_statistics for target in targets):
        return None
    factor = subsampling_factor(model.encoder)
    scp = Path(args.train_data_path_and_name_and_type[0][0])
    ids = draw_utterances(scp, max_utterances)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as key_file:
        key_file.write("".join(f"{utterance} -\n" for utterance in ids))
        key_file.flush()
        batches = SSLTask.build_streaming_iterator(
            args.train_data_path_and_name_and_type,
            preprocess_fn=refuse_channels,
            collate_fn=CommonCollateFn(float_pad_value=0.0, int_pad_value=-1),
            key_file=key_file.name,
            batch_size=1,
            dtype="float32",
            num_workers=0,
        )
        count, mean, square = 0, 0.0, 0.0
        for number, (keys, batch) in enumerate(batches, start=1):
            if not are_finite(batch["speech"].numpy()):
                logging.warning(f"utterance {keys[0]} is left out: {NOT_FINITE}")
                continue
            xs, _ = model._extract_feats(batch["speech"], batch["speech_lengths"])
            frames = stack_frames(xs, factor, xs.size(1) // factor)[0].double()
            count += len(frames)
            mean = mean + frames.sum(dim=0)
            square = square + frames.T @ frames
            if number % 500 == 0:
                logging.info(f"{number} of {len(ids)} utterances, {count} frames")
    if count == 0:
        raise DataError(f"{scp}: not one frame in these utterances")
    mean = mean / count
    covariance = square / count - torch.outer(mean, mean)
    return FrameStatistics(mean.numpy(), covariance.numpy().astype(np.float64), count)


def main(cmd=None):
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own, rest = get_parser().parse_known_args(cmd)
    args = SSLTask.get_parser().parse_args(rest)
    try:
        lists = args.train_data_path_and_name_and_type
        check_first_audio(lists, args.frontend_conf)
        statistics = frame_statistics(args, own.max_utterances)
        if statistics is None:
            logging.info("no target starts from frame statistics: none are made")
            return
        Path(own.statistics).parent.mkdir(parents=True, exist_ok=True)
        statistics.save(own.statistics)
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"frame_statistics: error: {error}")
    logging.info(f"{own.statistics}: {statistics.frames} frames")


if __name__ == "__main__":
    main()
