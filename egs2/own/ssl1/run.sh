#!/usr/bin/env bash
# Pretrains on your own data: Kaldi data directories, or sets formatted by an ESPnet recipe,
# anywhere on disk. Nothing is written to them (docs/own_data.md).
#   ./run.sh --train_set /espnet/egs2/x/asr1/dump/raw/train \
#       --valid_set /espnet/egs2/x/asr1/dump/raw/dev
#   ./run.sh --method best_rq --train_set /kaldi/data/train --valid_set /kaldi/data/dev
#   --method birq   or best_rq; birq_stop_gradient (BiRQ without its gradient through the
#                   labels), which has no size large
#   --size small    4.6 M parameters, for a few hours of speech, also on a CPU
#   --size base     83 M, for tens of hours or more, on a GPU
#   --size large    155 M, for hundreds of hours or more, on GPUs with 80 GB; not in ESPnet
# --train_config selects another configuration. All other options go to birq.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq size=small
sort_options "method size" "" ./birq.sh "$@"
sized_config "train_${method}" "${size}"
./birq.sh --nj "$(../../../local/cores)" --train_config "${config}" "${opts[@]}"
