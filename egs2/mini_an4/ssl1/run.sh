#!/usr/bin/env bash
# Pretrains on eight real utterances, in seconds. Options: ./birq.sh --help
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
sort_options "" "" ./birq.sh "$@"
./birq.sh --train_set train_nodev --valid_set train_dev --ngpu 0 --nj 2 \
    --train_config conf/train_birq.yaml "${opts[@]}"
