#!/usr/bin/env bash
# Pretrains on half an hour of synthetic speech.
#   ./run.sh --method birq      or best_rq; other options: ./birq.sh --help
set -e
set -u
set -o pipefail
method=birq
opts=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h) sed -n '2,3s/^# \{0,1\}//p' "$0"; exec ./birq.sh --help ;;
        --method) method=$2 ;;
        *) opts+=("$1" "$2") ;;
    esac
    shift 2
done
./birq.sh --train_set pretrain --valid_set valid --ngpu 0 --nj "$(nproc)" \
    --train_config "conf/train_${method}.yaml" "${opts[@]}"
