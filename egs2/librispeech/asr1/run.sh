#!/usr/bin/env bash
# Fine-tunes on train_clean_100, decodes and scores.
#   ./run.sh --method birq      birq, best_rq, birq_paper or {birq,best_rq}_c{1,2}, as
#                               pretrained by ../ssl1/run.sh; or scratch, scratch_c1 or
#                               scratch_c2, the same configurations without pretraining
#   --protocol paper            CTC on characters, 30 epochs, greedy decoding (default)
#   --protocol strong           CTC and a decoder on 5000 BPE units, beam search; not for
#                               the encoders _c1 and _c2
#   --train_hours 10            fine-tunes on that many hours of train_clean_100 (usually
#                               10 or 1), in exp/10h, with half the updates
#   --self_train 2 --unlabelled_set NAME
#                               added to an earlier command: rounds of self-training on
#                               dump/raw/NAME; see self_train.sh --help
#   ./run.sh --method birq --librispeech /corpora --valid_set dev_clean \
#       --test_sets "dev_clean test_other"         uses only a part of the corpus
# --librispeech, --parts, --lm (downloads the official 4-gram), --skip_bad, --resample,
# --dry_run, --list go to local/data.sh (with the same values as for ../ssl1/run.sh), all
# other options to finetune.sh and asr.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq protocol=paper train_set=train_clean_100 train_hours= valid_set=dev
dry_run=false self_train=0 asr_args= test_sets="test_clean test_other dev_clean dev_other"
sort_options "method protocol train_set train_hours valid_set test_sets dry_run self_train
    asr_args" \
    "librispeech parts lm need subset skip_bad resample dry_run list" ./finetune.sh "$@"
pretrained_model "${method%_c[12]}" "ssl_train_${method}_raw"
protocol_options "${protocol}" 5000 paper strong
if [[ ${method} == *_c[12] ]]; then
    [ "${protocol}" = paper ] ||
        { echo "$0: error: no --protocol ${protocol} for ${method}" >&2; exit 1; }
    protocol_opts+=(--asr_config "conf/tuning/train_asr_${method##*_}.yaml")
fi
need=${train_set},${valid_set},${test_sets// /,}
if [ -n "${train_hours}" ]; then
    # BPE units are trained on the whole set and thus shared by all experiments. 30 epochs
    # of 260 batches are half of the updates used for the whole set.
    data_opts+=(--subset "${train_set}:${train_hours}")
    protocol_opts+=(--expdir "exp/${train_hours}h"
        --lm_train_text "data/${train_set}/text" --bpe_train_text "data/${train_set}/text")
    asr_args="--num_iters_per_epoch 260${asr_args:+ ${asr_args}}"
    train_set+=_${train_hours}h
fi
if "${dry_run}"; then
    [ "${self_train}" = 0 ] ||
        { echo "$0: error: --dry_run checks the data: leave out --self_train" >&2; exit 1; }
    opts+=(--stage 1 --stop_stage 1) ssl_model=none
fi
finetuning_script "${self_train}"
"${script[@]}" --asr_tag "${method}${suffix}" --ssl_model "${ssl_model}" \
    --ngpu 1 --nj "$(../../../local/cores)" --inference_nj "$(../../../local/cores)" \
    --lang en --use_lm false --max_wav_duration 30 \
    --train_set "${train_set}" --valid_set "${valid_set}" --test_sets "${test_sets}" \
    --asr_args "${asr_args}" "${protocol_opts[@]}" \
    --local_data_opts "--need ${need} ${data_opts[*]}" "${opts[@]}"
