#!/usr/bin/env bash
# Fine-tunes a pretrained encoder with ESPnet's own asr.sh and proves that the encoder
# was handed over: ESPnet itself loads nothing, in silence, when a name is wrong.
#
# Usage: finetune.sh [--ssl_model FILE] --asr_tag TAG --asr_config FILE [asr.sh options]
#   --ssl_model    pretrained model (.pth beside its config.yaml); none: from scratch
#   --num_threads  CPU threads of training with --ngpu 0 (default: all)
#   --asr_args     options of ESPnet's asr_train; they prevail over --asr_config's
#   --python       Python for ESPnet's commands (default: python3; where --asr_config or
#                  --asr_args have the encoder shaw_conformer, encoder_lr_decay or
#                  freeze_encoder_updates, one whose ESPnet knows them:
#                  "python3 -m espnet2_birq.bin.with_encoders")
#   --greedy_ctc   true: stage 12 is espnet2_birq.bin.ctc_decode, all test sets at once;
#                  for a CTC model the texts of asr_inference, many times faster
#   --decode_lm    word n-gram to decode the test sets with, too, after stage 13: --lm of
#                  decode_ctc.sh, whose --lm_interpolate and --lm_words go with it
# The encoder may have less layers than the pretrained one (num_blocks): those at its top
# are left out. The scheduler tristagelr gets as max_steps the number of all updates.
# All other options are asr.sh's (--help shows them): --stage, --stop_stage, --ngpu, ...
set -e
set -u
set -o pipefail
fail() { echo "finetune.sh: error: $*" >&2; exit 1; }

ssl_model=none asr_tag= asr_config= asr_args= python= stage=1 stop_stage=10000
expdir=exp ngpu=1 num_nodes=1
lang=noinfo token_type=bpe nbpe=30 speed_perturb_factors= asr_stats_dir=
num_threads=$(../../../local/cores)
greedy_ctc=false decode_lm=none lm_interpolate= lm_words=
dumpdir=dump test_sets= inference_nj=32 inference_asr_model=valid.acc.ave.pth
opts=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --*) [ $# -ge 2 ] || fail "option $1 wants a value" ;;
        *) fail "no positional arguments are taken, got '$1'" ;;
    esac
    name=${1#--} name=${name//-/_}
    case "${name}" in
        ssl_model|asr_tag|asr_config|asr_args|python|stage|stop_stage|expdir|ngpu|\
        asr_stats_dir|greedy_ctc|decode_lm|lm_interpolate|lm_words)
            printf -v "${name}" %s "$2" ;;
        num_threads) num_threads=$2 ;;
        num_nodes|lang|token_type|nbpe|speed_perturb_factors|\
        dumpdir|test_sets|inference_nj|inference_asr_model)
            printf -v "${name}" %s "$2"; opts+=("$1" "$2") ;;
        *) opts+=("$1" "$2") ;;
    esac
    shift 2
done
[ -n "${asr_tag}" ] || fail "--asr_tag is required"
[ -f "${asr_config}" ] || fail "--asr_config '${asr_config}': no such file"

if [ -z "${python}" ]; then
    python=python3
    _ours="^(encoder: *[\"']?shaw_conformer|encoder_lr_decay:|freeze_encoder_updates:)"
    if grep -Eq "${_ours}" "${asr_config}" || [[ " ${asr_args}" =~ \
        \ --(encoder[\ =]shaw_conformer|encoder_lr_decay|freeze_encoder_updates) ]]; then
        python="python3 -m espnet2_birq.bin.with_encoders"
    fi
fi

. ./path.sh
asr_exp=${expdir}/asr_${asr_tag}
if [ "${ssl_model}" != none ] && [ ! -f "${ssl_model}" ]; then
    fail "--ssl_model '${ssl_model}': no such file, run ssl1 first"
fi
# As asr.sh names it: the lengths of all utterances will be there.
stats=${expdir}/asr_stats_raw_
if [ "${lang}" != noinfo ]; then stats+=${lang}_; fi
stats+=${token_type}
if [ "${token_type}" = bpe ]; then stats+=${nbpe}; fi
if [ -n "${speed_perturb_factors}" ]; then stats+=_sp; fi
stats=${asr_stats_dir:-${stats}}

run_asr() {  # run_asr FIRST LAST: those of the stages asked for that lie in between
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    [ "${first}" -le "${last}" ] || return 0
    ./asr.sh --stage "${first}" --stop_stage "${last}" --ngpu "${ngpu}" \
        --expdir "${expdir}" --asr_exp "${asr_exp}" --asr_config "${asr_config}" \
        --asr_args "${asr_args}" --asr_stats_dir "${stats}" \
        --python "${python}" --feats_normalize utterance_mvn "${opts[@]}"
}
options() {  # options WHAT ...: those that depend on the pretrained model or the data
    # shellcheck disable=SC2086
    python3 -m espnet2_birq.bin.finetune_options "$@" \
        -- --config "${asr_config}" ${asr_args} \
        --train_shape_file "${stats}/train/speech_shape" \
        --train_shape_file "${stats}/train/text_shape.${token_type}"
}

run_asr 1 10
if [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 11 ]; then
    if [ "${ssl_model}" != none ]; then
        init=$(options init_param --ssl_model "${ssl_model}")
        opts+=(--pretrained_model "${init}")
        # Before hours are spent: does ESPnet find every tensor of the encoder?
        rm -rf "${asr_exp}/handoff" && mkdir -p "${asr_exp}/handoff"
        printf '<blank>\n<unk>\n<sos/eos>\n' > "${asr_exp}/handoff/tokens.txt"
        # shellcheck disable=SC2086
        ${python} -m espnet2.bin.asr_train --config "${asr_config}" ${asr_args} \
            --init_param "${init}" --dry_run true \
            --iterator_type none --token_type char --log_level WARNING \
            --token_list "${asr_exp}/handoff/tokens.txt" \
            --output_dir "${asr_exp}/handoff"
        python3 -m espnet2_birq.bin.check_handoff "${ssl_model}" \
            "${asr_exp}/handoff/config.yaml"
    fi
    _schedule=$(options schedule --gpus $((ngpu > 0 ? ngpu * num_nodes : 1)))
    asr_args="${asr_args:+${asr_args} }${_schedule}"
    (
        if [ "${ngpu}" -eq 0 ]; then cpu_training "${num_threads}"; fi
        run_asr 11 11
    )
    if [ "${ssl_model}" != none ]; then
        python3 -m espnet2_birq.bin.check_handoff "${ssl_model}" \
            "${asr_exp}/config.yaml" | tee "${asr_exp}/handoff.txt"
        rm -r "${asr_exp}/handoff"
    fi
fi
if ! "${greedy_ctc}"; then
    run_asr 12 10000
else
    tag=greedy_ctc_${inference_asr_model%.*}
    if [ "${stage}" -le 12 ] && [ "${stop_stage}" -ge 12 ]; then
        # shellcheck disable=SC2086
        python3 -m espnet2_birq.bin.ctc_decode --tag "${tag}" --ngpu $((ngpu > 0)) \
            --model "${asr_exp}/${inference_asr_model}" --nj "${inference_nj}" \
            --data $(printf " ${dumpdir}/raw/%s" ${test_sets})
    fi
    opts+=(--inference_tag "${tag}")
    run_asr 13 10000
fi
if [ "${decode_lm}" != none ] && [ "${stop_stage}" -ge 13 ]; then
    ./decode_ctc.sh --lm "${decode_lm}" --lm_interpolate "${lm_interpolate}" \
        --lm_words "${lm_words}" --asr_exp "${asr_exp}" --expdir "${expdir}" \
        --ngpu "${ngpu}" --python "${python}" --feats_normalize utterance_mvn "${opts[@]}"
fi
