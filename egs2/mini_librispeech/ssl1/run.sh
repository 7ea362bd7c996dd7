#!/usr/bin/env bash
# Pretrains on a few hours of LibriSpeech. Download OpenSLR 31 (mini LibriSpeech) and
# unpack it into downloads/, or point --librispeech at any parts of the corpus:
#   ./run.sh --method birq          or best_rq; birq_stop_gradient (BiRQ without its gradient
#                                   through the labels); birq_paper (as published); rvq,
#                                   bridle, data2vec, dinosr, spidr (docs/methods.md)
#   ./run.sh --method best_rq --librispeech /corpora --train train-clean-100
# --librispeech, --train, --dev, --held_out, --test_other go to local/data.sh, all other
# options (--stage, --ngpu, ...) to birq.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq resample=false
sort_options "method resample" "librispeech train dev held_out test_other resample" \
    ./birq.sh "$@"
./birq.sh --train_set train --valid_set valid --ngpu 0 --nj "$(../../../local/cores)" \
    --train_config "conf/train_${method}.yaml" --resample "${resample}" \
    --local_data_opts "${data_opts[*]}" "${opts[@]}"
