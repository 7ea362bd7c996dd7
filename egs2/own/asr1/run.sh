#!/usr/bin/env bash
# Fine-tunes on your own transcribed speech, decodes and scores (docs/own_data.md). Sets are
# Kaldi data directories with text, anywhere on disk; nothing is written to them.
#   ./run.sh --train_set /kaldi/data/train --valid_set /kaldi/data/dev \
#       --test_sets "/kaldi/data/eval1 /kaldi/data/eval2"
#   --method birq    as for ../ssl1/run.sh; or scratch (without pretraining)
#   --size small     as for ../ssl1/run.sh: small, base or large
#   --ssl_model FILE --asr_tag NAME     another pretrained model (--size then selects only
#                    its configuration; --asr_config overrides it)
#   --fs 8k          sampling rate of the model and of the audio (default: 16k)
#   --resample true  accept audio at other sampling rates
# CTC on characters, 30 epochs, greedy decoding. All other options go to finetune.sh and
# asr.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
. "$(dirname "$0")/../../../local/data_record.sh"
method=birq size=small fs=16k train_set= valid_set= test_sets= ssl_model= asr_tag=
sort_options "method size fs train_set valid_set test_sets ssl_model asr_tag" \
    "resample fs set" ./finetune.sh "$@"
fail() { echo "run.sh: error: $*" >&2; exit 1; }
[ -n "${train_set}" ] && [ -n "${valid_set}" ] && [ -n "${test_sets}" ] ||
    fail "--train_set, --valid_set and --test_sets are required; see --help"
tag=${method}
if [ "${size}" != small ]; then tag+=_${size}; fi
[ -n "${ssl_model}" ] || pretrained_model "${method}" "ssl_train_${tag}_raw"
config=conf/train_asr_${size}.yaml
[ -f "${config}" ] || fail "--size ${size}: give small, base or large"
names=()
for set in "${train_set}" "${valid_set}" ${test_sets}; do
    [[ ! ${set} =~ [[:space:]] ]] || fail "'${set}': give a link without spaces"
    [[ ${set} != */* ]] || data_opts+=(--set "${set%/}")
    name=$(set_name "train_set, --valid_set, --test_sets" "${set}")
    names+=("${name}")
done
./finetune.sh --asr_tag "${asr_tag:-${tag}}" --ssl_model "${ssl_model}" \
    --ngpu 1 --nj "$(../../../local/cores)" --inference_nj "$(../../../local/cores)" \
    --fs "${fs}" --use_lm false --max_wav_duration 30 --token_type char \
    --asr_config "${config}" --inference_config conf/decode_asr.yaml \
    --train_set "${names[0]}" \
    --valid_set "${names[1]}" --test_sets "${names[*]:2}" \
    --local_data_opts "${data_opts[*]}" "${opts[@]}"
