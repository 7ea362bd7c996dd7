#!/usr/bin/env bash
# Fine-tunes the encoder of ../ssl1 on eight real utterances, decodes and scores: a test of
# the recipe that takes a minute. Options: ./finetune.sh --help
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
sort_options "" "" ./finetune.sh "$@"
./finetune.sh --asr_tag birq --asr_config conf/train_asr.yaml \
    --ssl_model ../ssl1/exp/ssl_train_birq_raw/valid.total_count.ave.pth \
    --ngpu 0 --nj 2 --inference_nj 2 --lang en --token_type char --use_lm false \
    --train_set train_nodev --valid_set train_dev --test_sets test \
    --inference_config conf/decode_asr.yaml \
    "${opts[@]}"
