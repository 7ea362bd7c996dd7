#!/usr/bin/env bash
# Fine-tunes a pretrained encoder with ESPnet's own asr.sh and proves that the encoder
# was handed over: ESPnet itself loads nothing, in silence, when a name is wrong.
#
# Usage: finetune.sh [--ssl_model FILE] --asr_tag TAG --asr_config FILE [asr.sh options]
#   --ssl_model    pretrained model (.pth beside its config.yaml); none: from scratch
#   --num_threads  CPU threads of training with --ngpu 0 (default: all)
#   --python       Python for ESPnet's commands (default: python3; with the encoder
#                  shaw_conformer in --asr_config, one whose ESPnet knows that encoder:
#                  "python3 -m espnet2_birq.bin.with_encoders")
#   --decode_lm    word n-gram to decode the test sets with, too, after stage 13: --lm of
#                  decode_ctc.sh, whose --lm_interpolate and --lm_words go with it
# All other options are asr.sh's (--help shows them): --stage, --stop_stage, --ngpu, ...
set -e
set -u
set -o pipefail
fail() { echo "finetune.sh: error: $*" >&2; exit 1; }

ssl_model=none asr_tag= asr_config= python= stage=1 stop_stage=10000 expdir=exp ngpu=1
num_threads=$(getconf _NPROCESSORS_ONLN)
decode_lm=none lm_interpolate= lm_words=
opts=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --*) [ $# -ge 2 ] || fail "option $1 wants a value" ;;
        *) fail "no positional arguments are taken, got '$1'" ;;
    esac
    name=${1#--} name=${name//-/_}
    case "${name}" in
        ssl_model|asr_tag|asr_config|python|stage|stop_stage|expdir|ngpu|num_threads|\
        decode_lm|lm_interpolate|lm_words)
            printf -v "${name}" %s "$2" ;;
        *) opts+=("$1" "$2") ;;
    esac
    shift 2
done
[ -n "${asr_tag}" ] || fail "--asr_tag is required"
[ -f "${asr_config}" ] || fail "--asr_config '${asr_config}': no such file"

if [ -z "${python}" ]; then
    python=python3
    if grep -Eq "^encoder: *[\"']?shaw_conformer" "${asr_config}"; then
        python="python3 -m espnet2_birq.bin.with_encoders"
    fi
fi

. ./path.sh
asr_exp=${expdir}/asr_${asr_tag}
if [ "${ssl_model}" != none ]; then
    [ -f "${ssl_model}" ] || fail "--ssl_model '${ssl_model}': no such file, run ssl1 first"
    opts+=(--pretrained_model "${ssl_model}:encoder:encoder")
fi

run_asr() {  # run_asr FIRST LAST: those of the stages asked for that lie in between
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    [ "${first}" -le "${last}" ] || return 0
    ./asr.sh --stage "${first}" --stop_stage "${last}" --ngpu "${ngpu}" \
        --expdir "${expdir}" --asr_exp "${asr_exp}" --asr_config "${asr_config}" \
        --python "${python}" --feats_normalize utterance_mvn "${opts[@]}"
}

run_asr 1 10
if [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 11 ]; then
    if [ "${ssl_model}" != none ]; then
        # Before hours are spent: does ESPnet find every tensor of the encoder?
        rm -rf "${asr_exp}/handoff" && mkdir -p "${asr_exp}/handoff"
        printf '<blank>\n<unk>\n<sos/eos>\n' > "${asr_exp}/handoff/tokens.txt"
        # shellcheck disable=SC2086
        ${python} -m espnet2.bin.asr_train --config "${asr_config}" \
            --init_param "${ssl_model}:encoder:encoder" --dry_run true \
            --iterator_type none --token_type char --log_level WARNING \
            --token_list "${asr_exp}/handoff/tokens.txt" \
            --output_dir "${asr_exp}/handoff"
        python3 -m espnet2_birq.bin.check_handoff "${ssl_model}" \
            "${asr_exp}/handoff/config.yaml"
    fi
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
run_asr 12 10000
if [ "${decode_lm}" != none ] && [ "${stop_stage}" -ge 13 ]; then
    ./decode_ctc.sh --lm "${decode_lm}" --lm_interpolate "${lm_interpolate}" \
        --lm_words "${lm_words}" --asr_exp "${asr_exp}" --expdir "${expdir}" \
        --ngpu "${ngpu}" --python "${python}" --feats_normalize utterance_mvn "${opts[@]}"
fi
