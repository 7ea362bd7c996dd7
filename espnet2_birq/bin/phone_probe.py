#!/usr/bin/env python3
"""How much of the phones do the layers of encoders hold? A minute a small model.

Linear probes of frames, PNMI of k-means units and of the objectives' labels, effective
rank, side by side for several models, with paired differences from the first:

  python -m espnet2_birq.bin.phone_probe --untrained \\
      --model exp/ssl_train_best_rq_raw/valid.total_count.ave.pth \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
      --data dump/raw/dev_clean --alignment dev-clean.ctm --out exp/phones.json

A model may also be an ASR model that was fine-tuned, or a configuration (.yaml): the
same model untrained. docs/measures.md says what the numbers mean.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.measure import Settings, Source, measure
from espnet2_birq.evaluation.phones.models import config_of
from espnet2_birq.evaluation.phones.report import make_tables


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    default = Settings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        required=True,
        help="beside its config.yaml; may be given several times",
    )
    parser.add_argument(
        "--untrained", action="store_true", help="the first model untrained, too"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="Kaldi data directory, or LibriSpeech or a part of it, as it is unpacked",
    )
    parser.add_argument(
        "--alignment",
        type=Path,
        required=True,
        help="CTM, TextGrid, folder of <utterance>.TextGrid, or lines of `utterance, "
        "tab, PHONE:n PHONE:n ...` with numbers of 10 ms frames; may be gzip'ed",
    )
    parser.add_argument("--tier", default=default.tier, help="of TextGrids; phones")
    parser.add_argument(
        "--utterances",
        type=int,
        default=default.utterances,
        help="how many, the first of each speaker; 400",
    )
    parser.add_argument("--layers", type=int, nargs="+", help="0: the input; all")
    parser.add_argument(
        "--drop_silence", action="store_true", help="leave out frames of silence"
    )
    parser.add_argument(
        "--units", type=int, default=default.units, help="clusters of k-means; 100"
    )
    parser.add_argument(
        "--max_frames",
        type=int,
        default=default.max_frames,
        help="of more, every second, say, is kept: all layers are in memory; 100000",
    )
    parser.add_argument(
        "--abx", action="store_true", help="ABX error rates, too: wants fastabx"
    )
    parser.add_argument("--device", default=default.device, help="cpu or cuda")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON, with each speaker's numbers"
    )
    return parser


def name_models(paths: list[Path], untrained: bool) -> list[Source]:
    """Name models by their folders where these differ, else by their whole paths."""
    folders = [path.absolute().parent.name for path in paths]
    whole = len(set(folders)) < len(folders)
    sources = [
        Source(str(path) if whole else folder, path)
        for path, folder in zip(paths, folders)
    ]
    if untrained:
        sources.append(Source("untrained", config_of(paths[0])))
    return sources


def main(cmd=None):
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(cmd)
    settings = Settings(
        utterances=args.utterances,
        layers=args.layers,
        tier=args.tier,
        silence=not args.drop_silence,
        units=args.units,
        max_frames=args.max_frames,
        abx=args.abx,
        device=args.device,
    )
    sources = name_models(args.model, args.untrained)
    try:
        result = measure(sources, args.data, args.alignment, settings)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        part = args.out.with_name(args.out.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.rename(args.out)
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"phone_probe: error: {error}")
    print(make_tables(result))


if __name__ == "__main__":
    main()
