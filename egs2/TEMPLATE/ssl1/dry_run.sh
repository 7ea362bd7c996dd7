# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the variables are those of birq.sh
# Sourced by birq.sh: prints what the stages would do, for --dry_run true.

shown() {  # shown NUMBER WHAT OUTPUT: prints a stage, and whether its OUTPUT exists already
    local state=
    if [ -e "$3" ]; then state=" (exists; would be made again)"; fi
    if [ "$1" = 7 ]; then  # stage 6 has made its folder, too
        state=
        [ ! -e "$3/checkpoint.pth" ] && [ ! -e "$3/progress.pth" ] ||
            state=" (exists; would be resumed)"
    fi
    echo "stage $1: $2 -> ${3%/made_from.json}${state}"
}

show_data() {
    local x set source
    if run_stage 1; then
        if makes_data; then shown 1 "local/data.sh ${local_data_opts}" data; fi
        for x in train valid; do
            set=${x}_set source=${x}_source
            if formatted "${!source}"; then
                shown 1 "import ${!source}" "${data_feats}/${!set}"
            elif [ -n "${!source}" ]; then
                shown 1 "import ${!source}" "data/${!set}"
            fi
        done
    fi
    if [ -n "${speed_perturb_factors}" ]; then
        if run_stage 2; then
            shown 2 "speeds ${speed_perturb_factors} of data/${train_set}" \
                "data/${train_set}_sp"
        fi
        train_set=${train_set}_sp
    fi
    for x in train valid; do
        set=${x}_set source=${x}_source
        formatted "${!source}" && continue
        if run_stage 3; then
            shown 3 "data/${!set} as ${audio_format} at ${fs}, ${nj} jobs" \
                "${data_feats}/org/${!set}"
        fi
        if run_stage 4; then
            shown 4 "utterances of ${min_wav_duration} to ${max_wav_duration} s" \
                "${data_feats}/${!set}"
        fi
    done
}

show_training() {
    local last=${train_stop_iter}
    _train_dir=${data_feats}/${train_set} _valid_dir=${data_feats}/${valid_set}
    _train_type=$(audio_type "${_train_dir}") _valid_type=$(audio_type "${_valid_dir}")
    if [ "${stop_stage}" -lt 7 ]; then last=${train_start_iter}; fi
    for iter in $(seq "${train_start_iter}" "${last}"); do
        use_iteration "${iter}"
        if [ -n "${labels_dir}" ] && due 5; then
            shown 5 "labels of ${labels_source}, iteration ${iter}" "${labels_dir}"
        fi
        if due 6; then
            shown 6 "${feats_normalize:-lengths} of both sets" "${ssl_stats_dir}"
        fi
        if due 7; then
            shown 7 "training, iteration ${iter}" "${ssl_exp}"
            make_train_command
            printf '    '
            printf ' %q' "${train_command[@]}"
            echo
        fi
    done
    use_iteration "${last}"
}

show_stages() {
    echo "dry run of $0: nothing is run or written"
    if ! "${skip_data_prep}"; then
        show_data
    elif [ -n "${speed_perturb_factors}" ]; then
        train_set=${train_set}_sp
    fi
    if "${skip_train}"; then use_iteration "${train_stop_iter}"; else show_training; fi
    if ! "${skip_packing}" && run_stage 8; then
        shown 8 "${ssl_exp}/${inference_ssl_model}" "${packed_model}"
    fi
    if ! "${skip_upload_hf}" && run_stage 9; then
        [ -n "${hf_repo}" ] || fail "--hf_repo is required, e.g. <your name>/<model name>"
        shown 9 "${packed_model}" "https://huggingface.co/${hf_repo}"
    fi
}
