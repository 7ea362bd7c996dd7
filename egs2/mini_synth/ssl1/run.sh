#!/usr/bin/env bash
# Pretrains on half an hour of synthetic speech.
#   ./run.sh --method birq      birq, best_rq or birq_stop_gradient; other options: ./birq.sh --help
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq
sort_options method "" ./birq.sh "$@"
./birq.sh --train_set pretrain --valid_set valid --ngpu 0 --nj "$(../../../local/cores)" \
    --train_config "conf/train_${method}.yaml" "${opts[@]}"
