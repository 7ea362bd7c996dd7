#!/usr/bin/env bash
# Pretrains on your own data: Kaldi data directories, or sets formatted by an ESPnet recipe,
# anywhere on the disk. Nothing is written to them (docs/own_data.md).
#   ./run.sh --train_set /espnet/egs2/x/asr1/dump/raw/train \
#       --valid_set /espnet/egs2/x/asr1/dump/raw/dev
#   ./run.sh --method best_rq --train_set /kaldi/data/train --valid_set /kaldi/data/dev
# --method is birq (default), best_rq or birq_stop_gradient (BiRQ without its gradient through
# the labels); --train_config uses another configuration.
# All options but --method go to birq.sh.
set -e
set -u
set -o pipefail
. ../../../local/run_options.sh
method=birq
sort_options "method" "" ./birq.sh "$@"
./birq.sh --nj "$(../../../local/cores)" \
    --train_config "conf/train_${method}.yaml" "${opts[@]}"
