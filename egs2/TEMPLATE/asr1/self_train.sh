#!/usr/bin/env bash
# Self-training (iterative pseudo-labelling): recognises unlabelled speech with the last
# model, and fine-tunes again on the labelled and the most confident recognised speech.
#
# Usage: after fine-tuning, with the same options and:
#   --self_train       number of rounds (default: 1)
#   --unlabelled_set   set to recognise, dump/raw/NAME; its transcripts are ignored, and
#                      utterances of the training set are left out
#   --keep             share of the usable recognised utterances to keep (default: 0.8)
# Round N makes EXPDIR/asr_TAG_stN, from the same pretrained encoder, its training set
# dump/raw/EXPDIR+asr_TAG_stN and its statistics EXPDIR/asr_stats_TAG_stN. Finished rounds are
# skipped, an interrupted one is resumed.
# All other options are those of finetune.sh (--help); give the same as for the fine-tuning itself,
# but neither --stage nor --stop_stage.
set -e
set -u
set -o pipefail
_here=$(dirname "$(readlink -f "$0")")
. "${_here}/../../../local/run_options.sh"
. "${_here}/../../../local/data_record.sh"
. "${_here}/../../../local/asr_names.sh"
fail() { echo "self_train.sh: error: $*" >&2; exit 1; }

self_train=1 unlabelled_set= keep=0.8
asr_tag= asr_config= train_set= expdir=exp dumpdir=dump inference_asr_model=
inference_nj=32 ngpu=1 fs=16k stage= stop_stage= speed_perturb_factors=
ssl_model=none asr_args= test_sets= valid_set= asr_exp= decode_lm=none lm_interpolate=
# Options that a round's result depends on, too.
_names=$(sed -E 's/=[^ ]*//g' <<< "${asr_defaults}")
sort_options "self_train unlabelled_set keep asr_tag asr_config train_set expdir dumpdir
    inference_asr_model inference_nj ngpu fs stage stop_stage speed_perturb_factors
    ssl_model asr_args test_sets valid_set asr_exp decode_lm lm_interpolate ${_names}" \
    "${_names} valid_set local_data_opts" \
    "${_here}/finetune.sh" "$@"
opts+=("${data_opts[@]}")
whole_numbers 0 ngpu
whole_numbers 1 self_train inference_nj
[ -z "${stage}${stop_stage}" ] ||
    fail "--stage, --stop_stage: a round has its own stages, and resumes; leave them out"
[ -z "${speed_perturb_factors}" ] ||
    fail "--speed_perturb_factors: not supported here; leave them out"
[ -z "${asr_exp}" ] || fail "--asr_exp: rounds have EXPDIR/asr_TAG_stN; give --expdir"
for _name in asr_tag asr_config train_set unlabelled_set; do
    [ -n "${!_name}" ] || fail "--${_name} is required"
done
[ -f "${dumpdir}/raw/${unlabelled_set}/wav.scp" ] ||
    fail "--unlabelled_set '${unlabelled_set}': no ${dumpdir}/raw/${unlabelled_set}/wav.scp"
if [ "${decode_lm}" = train ]; then  # that of the labelled set, not of the round's
    decode_lm=${expdir}/ngram/${train_set}${lm_interpolate:+_mixed}.arpa
    [ -f "${decode_lm}" ] || fail "--decode_lm train: no ${decode_lm}; fine-tune with it first"
fi
[ "${decode_lm}" = none ] || opts+=(--decode_lm "${decode_lm}")
. ./path.sh

model_to_decode_with "${asr_config}"
_previous=${expdir}/asr_${asr_tag}/${inference_asr_model}
[ -f "${_previous}" ] || fail "${_previous}: no such file; fine-tune first"
for _round in $(seq "${self_train}"); do
    _tag=${asr_tag}_st${_round} _raw=${dumpdir}/raw
    _exp=${expdir}/asr_${_tag}
    # Named by the experiment: rounds of others may run at the same time.
    _set=${_exp//\//+}
    # Inputs of the round: its result is kept only as long as they are unchanged.
    _stamp=("${_exp}/self_train.done" "${_previous}" "${_raw}/${train_set}"/{wav.scp,text}
        "${_raw}/${unlabelled_set}/wav.scp" --option "keep=${keep}"
        --setting "ssl_model=${ssl_model}" --setting "test_sets=${test_sets}"
        --setting "valid_set=${valid_set}"
        --config "${asr_config}" --args="${asr_args}"
        --free "num_workers log_interval log_level")
    # shellcheck disable=SC2086
    changed_options ${_names}
    _stamp+=("${changed[@]}")
    if [ -f "${_exp}/self_train.done" ]; then
        python3 -m espnet2_birq.bin.stamp check "${_stamp[@]}" --required \
            --remedy "remove ${_exp} to repeat round ${_round}"
        echo "$0: round ${_round}: already done (${_exp})"
    else
        echo "$0: round ${_round}: ${_previous} recognises ${unlabelled_set}"
        python3 -m espnet2_birq.bin.ctc_decode --model "${_previous}" --tag self_train \
            --data "${_raw}/${unlabelled_set}" --nj "${inference_nj}" --ngpu $((ngpu > 0))
        python3 -m espnet2_birq.bin.pseudo_label "${_raw}/${_set}" --keep "${keep}" \
            --labelled "${_raw}/${train_set}" --unlabelled "${_raw}/${unlabelled_set}" \
            --decoded "$(dirname "${_previous}")/self_train/${unlabelled_set}" --fs "${fs}"
        "${_here}/finetune.sh" "${opts[@]}" --asr_tag "${_tag}" \
            --asr_config "${asr_config}" --asr_args "${asr_args}" \
            --ssl_model "${ssl_model}" --train_set "${_set}" --test_sets "${test_sets}" \
            --expdir "${expdir}" --dumpdir "${dumpdir}" --ngpu "${ngpu}" --fs "${fs}" \
            --inference_asr_model "${inference_asr_model}" --inference_nj "${inference_nj}" \
            --asr_stats_dir "${expdir}/asr_stats_${_tag}" --stage 10 --stop_stage 13
        [ -f "${_exp}/${inference_asr_model}" ] ||
            fail "round ${_round}: fine-tuning has left no ${_exp}/${inference_asr_model}"
        python3 -m espnet2_birq.bin.stamp write "${_stamp[@]}"
        touch "${_exp}/self_train.done"
    fi
    _previous=${_exp}/${inference_asr_model}
done
