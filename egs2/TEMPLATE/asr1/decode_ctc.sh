#!/usr/bin/env bash
# Decodes the test sets with a fine-tuned CTC model and a word n-gram, and scores them. The
# n-gram's weights are tuned on the validation set. Run it in a recipe's asr1 after stages
# 1 to 11 of asr.sh, with the same options.
#
# Usage: decode_ctc.sh --lm FILE|train --asr_exp DIR --valid_set SET --test_sets "SET ..."
#   --lm                  word n-gram: ARPA file, possibly gzipped, or KenLM binary (with
#                         --lm_words); or train, which trains a 4-gram on the transcripts
#                         of --train_set and keeps it in EXPDIR/ngram/TRAIN_SET.arpa
#   --lm_interpolate      with --lm train: ARPA files or texts to interpolate with; their
#                         weights are tuned on the validation set's transcripts
#   --lm_words            words of a KenLM binary, one per line
#   --inference_asr_model model in --asr_exp (default: the average of the best epochs by
#                         its first validation criterion)
#   --ngpu                1 runs the network on a GPU (default: 1)
#   --inference_nj        processes for the search (default: all cores)
#   --expdir, --dumpdir   as in asr.sh (defaults: exp, dump)
# All other options are those of asr.sh for scoring: --lang, --token_type, --cleaner, ...
# Texts and scores are in ASR_EXP/ctc_LM_MODEL/SET, next to those of greedy decoding.
set -e
set -u
set -o pipefail
fail() { echo "decode_ctc.sh: error: $*" >&2; exit 1; }

_local=$(dirname "$(readlink -f "$0")")/../../../local
. "${_local}/run_options.sh"
. "${_local}/data_record.sh"
lm='' lm_interpolate='' lm_words='' asr_exp='' train_set='' valid_set='' test_sets=''
inference_asr_model= ngpu=1 expdir=exp dumpdir=dump python=python3
eval_valid_set=false
inference_nj=$("${_local}/cores")
own="lm lm_interpolate lm_words asr_exp train_set valid_set test_sets ngpu expdir dumpdir"
own+=" python inference_asr_model inference_nj eval_valid_set"
# Options for ESPnet's decoding, the stages to run and the data, which scoring must not get.
dropped="inference_.* stage stop_stage local_data_opts"
sort_options "${own}" "${dropped}" "" "$@"
whole_numbers 0 ngpu
whole_numbers 1 inference_nj
[ -n "${lm}" ] || fail "--lm is required: an n-gram's file, or train"
[ -f "${asr_exp}/config.yaml" ] || fail "no ${asr_exp}/config.yaml: run stage 11 first"
[ -n "${valid_set}" ] && [ -n "${test_sets}" ] ||
    fail "--valid_set and --test_sets are required"

. ./path.sh
model_to_decode_with "${asr_exp}/config.yaml"
[ -f "${asr_exp}/${inference_asr_model}" ] ||
    fail "no ${asr_exp}/${inference_asr_model}: run stage 11 first"
raw=${dumpdir}/raw
stamp() { python3 -m espnet2_birq.bin.stamp "$@"; }
is_fresh() { stamp check --required "$@" 2>/dev/null; }  # is_fresh FILE, MADE FROM ...
if [ "${lm}" = train ]; then
    [ -n "${train_set}" ] || fail "--lm train needs --train_set"
    lm=${expdir}/ngram/${train_set}.arpa
    if [ -n "${lm_interpolate}" ]; then lm=${expdir}/ngram/${train_set}_mixed.arpa; fi
    made_from=(data/"${train_set}"/text data/"${valid_set}"/text)
    for _other in ${lm_interpolate}; do
        if [ -d "${_other}" ]; then _other+=/text; fi
        made_from+=("${_other}")
    done
    if [ ! -f "${lm}" ] || ! is_fresh "${lm}" "${made_from[@]}"; then
        # shellcheck disable=SC2086
        python3 -m espnet2_birq.bin.train_ngram --out "${lm}" \
            --text "data/${train_set}" --dev "data/${valid_set}" \
            ${lm_interpolate:+--interpolate ${lm_interpolate}}
        stamp write "${lm}" "${made_from[@]}"
    fi
elif [ -n "${lm_interpolate}" ]; then
    fail "--lm_interpolate works only with --lm train"
fi
[ -f "${lm}" ] || fail "--lm '${lm}': no such file"

name=$(basename "${lm}" .gz)
tag=ctc_${name%.*}_${inference_asr_model%.*}
weights=${asr_exp}/${tag}.yaml
common=(--model "${asr_exp}/${inference_asr_model}" --ngpu "${ngpu}" --nj "${inference_nj}")
made_from=("${asr_exp}/${inference_asr_model}" "${lm}" ${lm_words:+"${lm_words}"}
    "${raw}/${valid_set}"/{wav.scp,text})
if [ ! -f "${weights}" ] || ! is_fresh "${weights}" "${made_from[@]}"; then
    python3 -m espnet2_birq.bin.tune_lm "${common[@]}" --dev "${raw}/${valid_set}" \
        --lm "${lm}" ${lm_words:+--words "${lm_words}"} --out "${weights}"
    stamp write "${weights}" "${made_from[@]}"
fi
scored_sets
python3 -m espnet2_birq.bin.ctc_decode "${common[@]}" --data "${scored[@]/#/${raw}/}" \
    --weights "${weights}" --tag "${tag}"
./asr.sh --stage 13 --stop_stage 13 --ngpu "${ngpu}" --expdir "${expdir}" \
    --dumpdir "${dumpdir}" --asr_exp "${asr_exp}" --inference_tag "${tag}" \
    --inference_asr_model "${inference_asr_model}" --python "${python}" \
    --train_set "${train_set:-none}" --valid_set "${valid_set}" \
    --test_sets "${test_sets}" --eval_valid_set "${eval_valid_set}" "${opts[@]}"
