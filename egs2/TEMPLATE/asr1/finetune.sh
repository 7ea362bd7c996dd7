#!/usr/bin/env bash
# shellcheck disable=SC2034  # options are used in asr_names.sh, too
# Fine-tunes a pretrained encoder with ESPnet's own asr.sh, and checks that the encoder was
# loaded: if names do not match, ESPnet silently loads nothing.
#
# Usage: finetune.sh [--ssl_model FILE] --asr_tag TAG --asr_config FILE [asr.sh options]
#   --ssl_model    pretrained model (.pth next to its config.yaml), or none for no pretraining
#   --num_threads  CPU threads for training with --ngpu 0 (default: all)
#   --asr_args     options of ESPnet's asr_train; they override --asr_config. A training is
#                  resumed only with the options that it began with, except max_epoch,
#                  num_workers, log_interval and log_level
#   --python       Python for ESPnet's commands (default: python3; or, if --asr_config or
#                  --asr_args have what ESPnet alone lacks (encoder shaw_conformer, frontend
#                  birq, encoder_lr_decay, freeze_encoder_updates, accelerate or objectives),
#                  "python3 -m espnet2_birq.bin.with_encoders")
#   --greedy_ctc   true: stage 12 decodes all test sets with espnet2_birq.bin.ctc_decode; for
#                  a CTC model, this gives the same texts as asr_inference, many times faster
#   --inference_asr_model  model to decode with (default: the average of the best epochs by
#                  the first validation criterion in best_model_criterion of --asr_config)
#   --decode_lm    word n-gram with which to decode the test sets again after stage 13: --lm
#                  of decode_ctc.sh, which also accepts --lm_interpolate and --lm_words
# The encoder may have fewer layers (num_blocks) than the pretrained one, whose top layers
# are then not used. The scheduler tristagelr gets the total number of updates as
# max_steps. Statistics of a model pretrained with global_mvn are reused.
# All other options are those of asr.sh, and "./asr.sh --help" in a recipe's asr1 lists them,
# except --pretrained_model (here --ssl_model) and --feats_normalize. The commonest ones:
#   --stage, --stop_stage      first and last stage: 1 data, 2 speed perturbation, 3 format,
#                  4 length filter, 5 units, 6 to 9 language models, 10 statistics,
#                  11 training, 12 decoding, 13 scores, 14 packing, 15 upload
#   --ngpu, --num_nodes, --nj, --inference_nj      GPUs per node, nodes, parallel jobs
#   --train_set, --valid_set, --test_sets          sets, folders of data/
#   --local_data_opts, --fs, --min_wav_duration, --max_wav_duration, --speed_perturb_factors
#   --token_type, --nbpe, --bpemode, --bpe_train_text, --lang, --cleaner, --g2p
#   --inference_config, --inference_args, --inference_tag, --eval_valid_set
#   --use_lm, --lm_config, --lm_args, --lm_train_text, --use_ngram
#   --expdir, --dumpdir, --asr_exp, --asr_stats_dir      folders
#   --skip_data_prep, --skip_train, --skip_eval, --skip_packing, --skip_upload_hf, --hf_repo
set -e
set -u
set -o pipefail
fail() { echo "finetune.sh: error: $*" >&2; exit 1; }

_here=$(dirname "$(readlink -f "$0")") _local=${_here}/../../../local
. "${_local}/run_options.sh"
. "${_local}/data_record.sh"
. "${_local}/asr_names.sh"
ssl_model=none asr_tag= asr_exp= asr_config= asr_args= python= stage=1 stop_stage=10000
expdir=exp ngpu=1 num_nodes=1 nj=32
speed_perturb_factors= asr_stats_dir=
num_threads=$("${_local}/cores")
dry_run=false greedy_ctc=false decode_lm=none lm_interpolate= lm_words=
dumpdir=dump test_sets= inference_nj=32 inference_asr_model=
train_set= valid_set= fs=16k audio_format=flac min_wav_duration=0.1 max_wav_duration=20
local_data_opts= bpe_train_text=
skip_stages= skip_data_prep=false skip_train=false skip_eval=false
skip_packing=true skip_upload_hf=true
inference_tag= inference_config= inference_args= use_lm=true use_ngram=false use_k2=false
eval_valid_set=false lm_tag= lm_exp= lm_config= lm_args= inference_lm=valid.loss.ave.pth
ngram_exp= inference_ngram=3gram.bin k2_ctc_decoding=true use_nbest_rescoring=true
own="ssl_model asr_tag asr_exp asr_config asr_args python stage stop_stage expdir ngpu"
own+=" num_threads asr_stats_dir dry_run greedy_ctc decode_lm lm_interpolate lm_words"
own+=" inference_asr_model"
# Options that are also passed to asr.sh.
shared="num_nodes nj lang token_type nbpe speed_perturb_factors dumpdir train_set valid_set"
shared+=" test_sets fs audio_format min_wav_duration max_wav_duration bpe_train_text bpemode"
shared+=" skip_stages skip_data_prep skip_train skip_eval skip_packing skip_upload_hf"
shared+=" use_lm use_ngram use_k2"
shared+=" inference_nj inference_tag inference_config inference_args"
shared+=" eval_valid_set local_data_opts lm_tag lm_exp lm_config lm_args inference_lm"
shared+=" ngram_exp inference_ngram k2_ctc_decoding use_nbest_rescoring cleaner g2p"
shared+=" asr_speech_fold_length asr_text_fold_length num_splits_asr"
sort_options "${own} ${shared}" "${shared}" "" "$@"
opts=("${data_opts[@]}" "${opts[@]}")
! "${dry_run}" || fail "--dry_run: only ssl1/run.sh has it; leave it out"
[ -n "${asr_tag}" ] || fail "--asr_tag is required"
[ -f "${asr_config}" ] || fail "--asr_config '${asr_config}': no such file"
whole_numbers 0 ngpu
check_stages 15
if [ "${stage}" = 14 ] && "${skip_packing}"; then
    fail "--stage 14: packs only with --skip_packing false"
elif [ "${stage}" = 15 ] && "${skip_upload_hf}"; then
    fail "--stage 15: uploads only with --skip_upload_hf false"
fi
whole_numbers 1 num_nodes nj inference_nj num_threads nbpe
check_speed_factors "${speed_perturb_factors}"
for _option in "${opts[@]}"; do
    case "${_option//-/_}" in
        __pretrained_model) fail "--pretrained_model: give the model as --ssl_model" ;;
        __feats_normalize) [ "${ssl_model}" = none ] || fail "--feats_normalize: the" \
            "encoder needs the pretrained model's: set normalize in --asr_config" ;;
    esac
done
no_spaces dumpdir expdir asr_tag asr_exp asr_config ssl_model asr_stats_dir
[ "${decode_lm}" != none ] || [ -z "${lm_interpolate}${lm_words}" ] ||
    fail "--lm_interpolate, --lm_words: give --decode_lm, the n-gram that they are for"
if [ "${decode_lm}" != none ]; then
    [ "${token_type}" = char ] || fail "--decode_lm needs --token_type char: the search with" \
        "a word n-gram spells words in characters"
    [ "${decode_lm}" = train ] || [ -z "${lm_interpolate}" ] ||
        fail "--lm_interpolate works only with --decode_lm train"
fi

if [ -z "${python}" ]; then
    python=python3
    _ours="encoder_lr_decay|freeze_encoder_updates|accelerate|objectives"
    _config="^(encoder: *[\"']?shaw_conformer|frontend: *[\"']?birq|(${_ours}):)"
    _args=" --(encoder[ =]shaw_conformer|frontend[ =]birq|${_ours})"
    if grep -Eq "${_config}" "${asr_config}" || [[ " ${asr_args}" =~ ${_args} ]]; then
        python="python3 -m espnet2_birq.bin.with_encoders"
    fi
fi

. ./path.sh
model_to_decode_with "${asr_config}"
asr_exp=${asr_exp:-${expdir}/asr_${asr_tag}} given_args=${asr_args}
if [ "${ssl_model}" != none ] && [ ! -f "${ssl_model}" ]; then
    fail "--ssl_model '${ssl_model}': no such file, run ssl1 first"
fi
raw=${dumpdir}/raw trained=${train_set}${speed_perturb_factors:+_sp}
asr_names
opts+=(--inference_asr_model "${inference_asr_model}" --inference_tag "${inference_tag}")

if "${skip_data_prep}"; then skip_stages+=" 1 2 3 4 5"; fi
if "${skip_train}"; then skip_stages+=" 2 4 5 6 7 8 9 10 11"; fi
if "${skip_eval}"; then skip_stages+=" 12 13"; fi
runs() {  # runs STAGE: whether the stage is requested and not skipped by asr.sh
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] &&
        [[ " ${skip_stages} " != *" $1 "* ]]
}
if runs 12 && [ -n "${inference_config}" ] && [ ! -f "${inference_config}" ]; then
    fail "--inference_config '${inference_config}': no such file"
fi
if runs 11; then need_gpus; fi
feats_normalize=utterance_mvn  # with this value, asr.sh does not change asr_config's setting
run_asr() {  # run_asr FIRST LAST: runs the requested stages from FIRST to LAST
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    [ "${first}" -le "${last}" ] || return 0
    ./asr.sh --stage "${first}" --stop_stage "${last}" --ngpu "${ngpu}" \
        --expdir "${expdir}" --asr_exp "${asr_exp}" --asr_config "${asr_config}" \
        --asr_args "${asr_args}" --asr_stats_dir "${stats}" \
        --python "${python}" --feats_normalize "${feats_normalize}" "${opts[@]}"
}

scored_sets

# Records what asr.sh's outputs were made from (write, after a stage) and compares it (check,
# before a later stage uses them), since the data may have changed in between.
made_from() {  # made_from write|check perturbed|tokens|stats|training
    #            made_from write|check org|set|test|decoded SET
    local made stage args=() remedy='' changed
    local texts=(--setting "cleaner=${cleaner}" --setting "g2p=${g2p}")
    local audio=(--option "fs=${fs}" --option "audio_format=${audio_format}")
    case "$2" in
        perturbed)
            made=data/${trained} stage=2
            args=(--option "speed_perturb_factors=${speed_perturb_factors}"
                "data/${train_set}"/{wav.scp,segments,text}) ;;
        org)
            made=${raw}/org/$3 stage=3
            args=("${audio[@]}" "data/$3"/{wav.scp,segments,text}) ;;
        test)
            made=${raw}/$3 stage=3
            args=("${audio[@]}" "data/$3"/{wav.scp,segments,text}) ;;
        set)
            made=${raw}/$3 stage=4
            args=(--option "min_wav_duration=${min_wav_duration}"
                --option "max_wav_duration=${max_wav_duration}"
                "${raw}/org/$3"/{wav.scp,utt2num_samples,text}) ;;
        tokens)
            made=${tokens} stage=5 args=("${raw}/lm_train.txt")
            if [ "${token_type}" = bpe ]; then
                # shellcheck disable=SC2206
                args=(${bpe_train_text:-${raw}/org/${train_set}/text})
            fi
            if [ ! -e "${args[0]}" ]; then return 0; fi  # the units are those of another set
            args+=("${texts[@]}") ;;
        stats)
            made=${stats} stage=10
            args=("${texts[@]}" --required "${raw}/${trained}"/{wav.scp,text}
                "${raw}/${valid_set}"/{wav.scp,text} "${tokens}/tokens.txt") ;;
        training)
            # ESPnet resumes with any options, and overwrites config.yaml even if nothing is
            # left to train.
            made=${asr_exp} remedy="remove ${asr_exp} to train anew, or give another --asr_tag"
            args=("${stats}"/{train,valid}/speech_shape
                "${raw}"/{"${trained}","${valid_set}"}/text "${tokens}/tokens.txt"
                --config "${asr_config}" --args="${given_args}"
                --free "max_epoch num_workers log_interval log_level")
            changed_options cleaner g2p asr_speech_fold_length asr_text_fold_length \
                num_splits_asr
            args+=("${changed[@]}")
            if [ "${ssl_model}" != none ]; then args+=("${ssl_model}"); fi ;;
        decoded)
            made=${asr_exp}/${inference_tag}/$3 stage=12
            args=("${asr_exp}/${inference_asr_model}" "${raw}/$3/wav.scp")
            if [ -n "${inference_config}" ]; then args+=("${inference_config}"); fi ;;
    esac
    python3 -m espnet2_birq.bin.stamp "$1" "${made}" "${args[@]}" \
        --remedy "${remedy:-run stage ${stage:-} again (--stage ${stage:-})}"
}
all_sets() {  # all_sets write|check org|set|test: made_from for all sets of this kind
    local dset
    if [ "$2" != test ]; then
        for dset in "${trained}" "${valid_set}"; do made_from "$1" "$2" "${dset}"; done
        return
    fi
    for dset in "${scored[@]}"; do
        case "${dset}" in
            org/*) made_from "$1" org "${dset#org/}" ;;
            *) made_from "$1" test "${dset}" ;;
        esac
    done
}
check_before() {  # check_before STAGE: checks the outputs of earlier stages that it uses
    if [ "$1" -le 11 ] && ! "${skip_train}"; then
        if [ "$1" -gt 2 ] && [ -n "${speed_perturb_factors}" ]; then
            made_from check perturbed
        fi
        if [ "$1" -gt 3 ]; then all_sets check org; fi
        if [ "$1" -gt 4 ]; then all_sets check set; fi
        if [ "$1" -gt 5 ] && [ -e "${tokens}" ]; then made_from check tokens; fi
        if [ "$1" -gt 10 ]; then made_from check stats; fi
    elif [ "$1" -gt 11 ]; then
        all_sets check test
    fi
}
options() {  # options WHAT ...: prints options that depend on the pretrained model or data
    # shellcheck disable=SC2086
    python3 -m espnet2_birq.bin.finetune_options "$@" \
        -- --config "${asr_config}" ${asr_args} \
        --train_shape_file "${stats}/train/speech_shape" \
        --train_shape_file "${stats}/train/text_shape.${token_type}"
}

record_data() {  # record_data write|check: options of local/data.sh
    local dset others=
    for dset in ${valid_set} ${test_sets}; do others+=" data/${dset}"; done
    # shellcheck disable=SC2086
    data_record "$1" "data/${train_set}" "${others}" ${local_data_opts}
}

prepares=false
for _stage in 1 2 3 4 5; do ! runs "${_stage}" || prepares=true; done
if "${prepares}"; then begin_preparing "${dumpdir}" 11; fi
if runs 1; then
    run_asr 1 1
    record_data write
else
    record_data check
fi
# Stage 1 may have made some of them.
if [ "${decode_lm}" != none ] && [ "${stop_stage}" -ge 13 ]; then
    _files="${decode_lm} ${lm_interpolate} ${lm_words}"
    for _file in ${_files#train }; do
        [ -e "${_file}" ] || fail "--decode_lm, --lm_interpolate, --lm_words: no ${_file}"
    done
fi
run_asr 2 2
if runs 2 && [ -n "${speed_perturb_factors}" ]; then made_from write perturbed; fi
if runs 3; then
    "${skip_train}" || not_in_use 3 11 "${raw}/${trained}" "${raw}/${valid_set}"
    check_before 3
    run_asr 3 3
    "${skip_train}" || all_sets write org
    all_sets write test
fi
if runs 4; then
    check_before 4
    run_asr 4 4
    all_sets write set
fi
if runs 5; then
    check_before 5
    run_asr 5 5
    case "${token_type}" in
        bpe|char|word) made_from write tokens ;;  # other types do not depend on the data
    esac
fi
if "${prepares}"; then end_preparing; fi
if runs 6; then check_before 6; fi
run_asr 6 9
if runs 10; then
    check_before 10
    begin_preparing "${stats}" 11
    not_in_use 10 11 "${stats}"/splits*
    rm -rf "${stats}/made_from.json" "${stats}"/splits*  # asr.sh would reuse old parts
    run_asr 10 10
    made_from write stats
    end_preparing
fi
if runs 11; then
    mkdir -p "${asr_exp}"
    lock=${asr_exp}/.lock_finetune
    exec {lock_fd}>> "${lock}"
    flock_or_none "${lock_fd}" ||
        fail "${asr_exp}: another fine-tuning is at work in this folder; stop it, or give" \
            "another --asr_tag (if there is none, since a machine crashed: remove ${lock})"
    check_before 11
    _more=(--gpus $((ngpu > 0 ? ngpu * num_nodes : 1)))
    if [ -e "${asr_exp}/checkpoint.pth" ]; then
        made_from check training
        if [ -e "${asr_exp}/config.yaml" ]; then _more+=(--resumed "${asr_exp}/config.yaml"); fi
    fi
    if [ "${ssl_model}" != none ]; then
        init=$(options init_param --ssl_model "${ssl_model}")
        opts+=(--pretrained_model "${init}")
        _more+=(--ssl_model "${ssl_model}" --stats "${asr_exp}/train/feats_stats.npz")
    fi
    _options=$(options training "${_more[@]}")
    asr_args="${asr_args:+${asr_args} }${_options}"
    if [ "${ssl_model}" != none ]; then
        # Check before training, which takes hours, that ESPnet finds all encoder tensors.
        rm -rf "${asr_exp}/handoff" && mkdir -p "${asr_exp}/handoff"
        printf '<blank>\n<unk>\n<sos/eos>\n' > "${asr_exp}/handoff/tokens.txt"
        # shellcheck disable=SC2086
        ${python} -m espnet2.bin.asr_train --config "${asr_config}" \
            --frontend_conf "fs=${fs}" ${asr_args} --init_param "${init}" --dry_run true \
            --iterator_type none --token_type char --log_level WARNING \
            --token_list "${asr_exp}/handoff/tokens.txt" \
            --output_dir "${asr_exp}/handoff"
        python3 -m espnet2_birq.bin.check_handoff "${ssl_model}" \
            "${asr_exp}/handoff/config.yaml"
    fi
    made_from write training
    _max_epoch=$(python3 -c "
import pathlib, sys
from espnet2_birq.config import training_settings
found = training_settings(pathlib.Path(sys.argv[1]), sys.argv[2].split())
print(found.get('--max_epoch', found.get('max_epoch', 40)))  # ESPnet's default
" "${asr_config}" "${given_args}")
    set_averages_aside "${asr_exp}" "${_max_epoch}"
    (
        if [ "${ngpu}" -eq 0 ]; then cpu_training "${num_threads}"; fi
        run_asr 11 11
    )
    python3 -m espnet2_birq.bin.check_training "${asr_exp}/${inference_asr_model}"
    if [ "${ssl_model}" != none ]; then
        python3 -m espnet2_birq.bin.check_handoff "${ssl_model}" \
            "${asr_exp}/config.yaml" | tee "${asr_exp}/handoff.txt"
        rm -r "${asr_exp}/handoff"
    fi
    exec {lock_fd}>&-
fi
if runs 12; then
    check_before 12
    if "${greedy_ctc}"; then
        python3 -m espnet2_birq.bin.ctc_decode --ngpu $((ngpu > 0)) \
            --model "${asr_exp}/${inference_asr_model}" --nj "${inference_nj}" \
            --tag "${inference_tag}" --data "${scored[@]/#/${raw}/}"
    else
        run_asr 12 12
    fi
    for dset in "${scored[@]}"; do made_from write decoded "${dset}"; done
fi
if runs 13; then
    check_before 13
    for dset in "${scored[@]}"; do
        _text=${asr_exp}/${inference_tag}/${dset}/text
        # asr.sh would score what is missing as deleted words.
        [ -f "${_text}" ] || fail "no ${_text}: run stage 12 first (--stage 12)"
        made_from check decoded "${dset}"
        # asr.sh pairs texts and transcripts by line number.
        _texts=$(wc -l < "${_text}")
        _utterances=$(wc -l < "${raw}/${dset}/wav.scp")
        [ "${_texts}" -eq "${_utterances}" ] || fail "${_text}: ${_texts} texts of" \
            "${_utterances} utterances; run stage 12 again (--stage 12)"
    done
    run_asr 13 13
fi
if [ -e "${asr_exp}/train/feats_stats.npz" ]; then
    # With these, asr.sh packs the statistics from pretraining under the correct name.
    stats=${asr_exp} feats_normalize=global_mvn
fi
run_asr 14 10000
if [ "${decode_lm}" != none ] && [ "${stop_stage}" -ge 13 ] && ! "${skip_eval}"; then
    "${_here}/decode_ctc.sh" --lm "${decode_lm}" --lm_interpolate "${lm_interpolate}" \
        --lm_words "${lm_words}" --asr_exp "${asr_exp}" --expdir "${expdir}" \
        --ngpu "${ngpu}" --python "${python}" --feats_normalize utterance_mvn "${opts[@]}"
fi
