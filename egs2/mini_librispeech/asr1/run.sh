#!/usr/bin/env bash
# Fine-tunes with CTC on a few hours of LibriSpeech, decodes and scores.
#   ./run.sh --method birq      or best_rq, or scratch: without pretraining
# --librispeech, --train, --dev, --held_out, --test_other go to local/data.sh (give the
# same as to ../ssl1/run.sh), all other options to finetune.sh and asr.sh.
set -e
set -u
set -o pipefail
. ../../../local/run_options.sh
method=birq test_other=
sort_options "method test_other" "librispeech train dev held_out test_other resample" \
    ./finetune.sh "$@"
ssl_model=none
if [ "${method}" != scratch ]; then
    ssl_model=../ssl1/exp/ssl_train_${method}_raw/valid.total_count.ave.pth
fi
./finetune.sh --asr_tag "${method}" --asr_config conf/train_asr.yaml \
    --ssl_model "${ssl_model}" --ngpu 0 --nj "$(nproc)" --inference_nj "$(nproc)" \
    --lang en --token_type char --use_lm false --max_wav_duration 30 \
    --train_set train --valid_set valid --test_sets "test ${test_other:+test_other}" \
    --inference_config conf/decode_asr.yaml --inference_asr_model valid.loss.ave.pth \
    --local_data_opts "${data_opts[*]}" "${opts[@]}"
