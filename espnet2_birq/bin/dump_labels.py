#!/usr/bin/env python3
"""Write a pretrained model's labels of speech, for the next model to learn.

Offline relabelling, HuBERT's way: train, label all data with one of the model's
objectives, train anew on these labels.

  python -m espnet2_birq.bin.dump_labels --objective enhanced \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
      --data dump/raw/train/wav.scp,speech,sound --out dump/labels/train
  python -m espnet2_birq.bin.ssl_train ... \\
      --train_data_path_and_name_and_type dump/labels/train/labels.scp,labels,kaldi_ark

with `objectives: [{name: given, labeller_conf: {codebook_size: 8192}}]`, and the same for
the validation set. A label is the code nearest to the clean frame, in the first codebook.
Utterances whose samples are not finite get -1, no label; they are counted and named. A
model without the wanted objective learns one along with weight 0: {name: enhanced, view:
layer 7, weight: 0, gradient: 0, head: own, labeller_conf: {projection: whitened}}.
"""

import argparse
import logging
import sys
from pathlib import Path

import kaldiio
import numpy as np
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.api import load
from espnet2_birq.datadir.audio import LARGEST_SAMPLE, NOT_FINITE
from espnet2_birq.errors import ConfigError, DataError, one_line
from espnet2_birq.tasks.collate import check_first_audio, refuse_channels
from espnet2_birq.tasks.ssl import SSLTask


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="in its folder")
    parser.add_argument("--objective", default="enhanced", help="one of the model's")
    parser.add_argument(
        "--data", required=True, metavar="SCP,speech,TYPE", help="as for ssl_train"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="gets labels.ark and labels.scp, whole"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="utterances")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def dump(args: argparse.Namespace) -> int:
    """Label all utterances; returns how many."""
    model = load(args.model, args.device)
    parts = args.data.split(",")
    if len(parts) != 3:
        raise ConfigError(f"--data {args.data}: give FILE,speech,TYPE")
    check_first_audio([parts], {"fs": model.sample_rate})
    batches = SSLTask.build_streaming_iterator(
        [tuple(parts)],
        preprocess_fn=refuse_channels,
        collate_fn=CommonCollateFn(float_pad_value=0.0, int_pad_value=-1),
        batch_size=args.batch_size,
        dtype="float32",
        num_workers=1,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    ark, scp = args.out / "labels.ark", args.out / "labels.scp"
    partial = args.out / "labels.scp.part"
    scp.unlink(missing_ok=True)  # until it is whole again: it points into the ark
    count, bad = 0, []
    with kaldiio.WriteHelper(f"ark,scp:{ark},{partial}") as writer:
        for keys, batch in batches:
            batch = {name: value.to(args.device) for name, value in batch.items()}
            # What training leaves out gets the label of frames without one, so that all
            # lists have the same utterances.
            good = (batch["speech"].abs() < LARGEST_SAMPLE).all(dim=1, keepdim=True)
            batch["speech"] = batch["speech"].where(good, 0.0)
            codes, frames = model.label(**batch, name=args.objective)
            codes = codes[0].where(good, -1)
            bad += [
                key for key, sound in zip(keys, good.flatten().tolist()) if not sound
            ]
            for key, row, length in zip(keys, codes.cpu().numpy(), frames.tolist()):
                writer(key, row[:length].astype(np.int32))
                count += 1
                if count % 1000 == 0:
                    logging.info(f"{count} utterances")
    partial.rename(scp)
    if bad:
        logging.warning(
            f"{scp}: {len(bad)} utterances without a label (-1), having {NOT_FINITE}: "
            + " ".join(bad)
        )
    return count


def main(cmd=None):
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(cmd)
    try:
        count = dump(args)
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"dump_labels: error: {one_line(error)}")
    logging.info(f"{args.out / 'labels.scp'}: labels of {count} utterances")


if __name__ == "__main__":
    main()
