#!/usr/bin/env bash
# Fine-tunes with CTC on characters of train_clean_100, decodes and scores.
#   ./run.sh --method birq      or best_rq, birq_paper, birq_c1, birq_c2, as pretrained by
#                               ../ssl1/run.sh; or scratch, scratch_c1, scratch_c2: the
#                               same encoders without pretraining
#   ./run.sh --method birq --librispeech /corpora --valid_set dev_clean \
#       --test_sets "dev_clean test_other"         a part of the corpus is enough
# --librispeech, --parts, --lm (downloads the official 4-gram), --skip_bad, --resample,
# --dry_run, --list go to local/data.sh (give the same as to ../ssl1/run.sh), all other
# options to finetune.sh and asr.sh.
set -e
set -u
set -o pipefail
. ../../../local/run_options.sh
method=birq train_set=train_clean_100 valid_set=dev dry_run=false
test_sets="test_clean test_other dev_clean dev_other"
sort_options "method train_set valid_set test_sets dry_run" \
    "librispeech parts lm skip_bad resample dry_run list" ./finetune.sh "$@"
ssl_model=none
if [[ ${method} != scratch* ]]; then
    ssl_model=../ssl1/exp/ssl_train_${method}_raw/valid.total_count.ave.pth
fi
case "${method}" in
    *_c[12]) asr_config=conf/tuning/train_asr_${method##*_}.yaml ;;
    *) asr_config=conf/train_asr.yaml ;;
esac
if "${dry_run}"; then opts+=(--stop_stage 1) ssl_model=none; fi
need=${train_set},${valid_set},${test_sets// /,}
./finetune.sh --asr_tag "${method}" --asr_config "${asr_config}" \
    --ssl_model "${ssl_model}" --ngpu 1 --nj "$(nproc)" --inference_nj "$(nproc)" \
    --lang en --token_type char --use_lm false --max_wav_duration 30 \
    --train_set "${train_set}" --valid_set "${valid_set}" --test_sets "${test_sets}" \
    --inference_config conf/decode_asr.yaml --inference_asr_model valid.loss.ave.pth \
    --local_data_opts "--need ${need} ${data_opts[*]}" "${opts[@]}"
