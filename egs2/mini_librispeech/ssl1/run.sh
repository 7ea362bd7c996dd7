#!/usr/bin/env bash
# Pretrains on a few hours of LibriSpeech. Download OpenSLR 31 (mini LibriSpeech) and
# unpack it into downloads/, or point --librispeech at any parts of the corpus:
#   ./run.sh --method birq          or best_rq, or birq_paper
#   ./run.sh --method best_rq --librispeech /corpora --train train-clean-100
# --librispeech, --train, --dev, --held_out, --test_other go to local/data.sh, all other
# options (--stage, --ngpu, ...) to birq.sh.
set -e
set -u
set -o pipefail
method=birq
data_opts=() opts=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h) sed -n '2,7s/^# \{0,1\}//p' "$0"; exec ./birq.sh --help ;;
        --method) method=$2 ;;
        --librispeech|--train|--dev|--held_out|--test_other)
            data_opts+=("$1" "$2") ;;
        --resample) data_opts+=("$1" "$2") opts+=("$1" "$2") ;;
        *) opts+=("$1" "$2") ;;
    esac
    shift 2
done
./birq.sh --train_set train --valid_set valid --ngpu 0 --nj "$(nproc)" \
    --train_config "conf/train_${method}.yaml" \
    --local_data_opts "${data_opts[*]}" "${opts[@]}"
