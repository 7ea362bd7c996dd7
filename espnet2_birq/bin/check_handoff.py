"""Prove which tensors of an ASR model came from pretraining.

Example:
    python -m espnet2_birq.bin.check_handoff \\
        ../ssl1/exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
        exp/asr_birq/valid.loss.ave.pth
"""

import argparse
import sys
from pathlib import Path

from espnet2_birq.bin.command import warnings_off
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.transfer import LAYER, change_since, check_handoff


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description="Prove which tensors of an ASR model came from pretraining: repeat "
        "the loading its configuration asks for, into a model full of NaN, and "
        "compare. Exit status 0 and counts if every encoder tensor came over and both "
        "models see the same features; 1 and the names otherwise. The ASR encoder may "
        "have fewer layers: the top ones are left out then.",
        epilog="Run it from the folder the ASR model was trained in: paths in its "
        "configuration are relative to that.",
    )
    parser.add_argument(
        "ssl_model", type=Path, help="pretrained model (.pth beside its config.yaml)"
    )
    parser.add_argument(
        "asr_model",
        type=Path,
        help="ASR model (.pth beside its config.yaml), or that config.yaml",
    )
    return parser


def main(cmd=None):
    """Run the check; the exit status is its outcome."""
    args = get_parser().parse_args(cmd)
    try:
        with warnings_off():
            handoff = check_handoff(args.ssl_model, args.asr_model)
            if args.asr_model.suffix == ".pth":
                change = change_since(args.ssl_model, args.asr_model)
    except (ConfigError, DataError) as error:
        sys.exit(f"check_handoff: error: {error}")
    print(
        f"encoder tensors from pretraining: {len(handoff.loaded)} of "
        f"{len(handoff.loaded) + len(handoff.missing)} "
        f"({handoff.values / 1e6:.2f} M values)"
    )
    if handoff.dropped:
        layers = sorted({int(LAYER.match(name)[1]) for name in handoff.dropped})
        print(
            f"pretrained top layers that the ASR encoder does without: {len(layers)} "
            f"({', '.join(map(str, layers))}; {len(handoff.dropped)} tensors)"
        )
    for title, names in [
        ("not from pretraining", handoff.missing),
        ("pretrained, but without a place in the ASR model", handoff.unused),
        ("differs between the two models, so features do too", handoff.differing),
    ]:
        if names:
            print(f"{title}: {len(names)}", *names, sep="\n  ")
    if handoff.missing or handoff.unused or handoff.differing:
        sys.exit(1)
    print("frontend and normalize are the same")
    if args.asr_model.suffix == ".pth":
        print(f"the encoder has moved by {100 * change:.1f} % of its norm since")


if __name__ == "__main__":
    main()
