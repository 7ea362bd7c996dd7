#!/usr/bin/env bash
# Fine-tunes on five labelled minutes of synthetic speech, decodes and scores.
#   ./run.sh --method birq      birq, best_rq, or scratch (without pretraining)
#   --self_train 2 --unlabelled_set NAME
#                               added to an earlier command: rounds of self-training on
#                               dump/raw/NAME; see self_train.sh --help
# Other options: ./finetune.sh --help
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq self_train=0
sort_options "method self_train" "" ./finetune.sh "$@"
pretrained_model "${method}" "ssl_train_${method}_raw"
finetuning_script "${self_train}"
"${script[@]}" --asr_tag "${method}" --asr_config conf/train_asr.yaml \
    --ssl_model "${ssl_model}" --ngpu 0 --nj "$(../../../local/cores)" \
    --inference_nj "$(../../../local/cores)" --lang en --token_type char --use_lm false \
    --max_wav_duration 30 --train_set train --valid_set valid --test_sets test \
    --inference_config conf/decode_asr.yaml \
    "${opts[@]}"
