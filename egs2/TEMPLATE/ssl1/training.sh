# shellcheck shell=bash
# shellcheck disable=SC2034  # the variables are those of birq.sh
# Sourced by birq.sh: functions for its stages 6 and 7.

audio_type() {  # audio_type DIR: prints ESPnet's data type for its wav.scp
    case "$(cat "$1/audio_format" 2>/dev/null || echo "${audio_format}")" in
        *ark*) echo kaldi_ark ;;
        *) echo sound ;;
    esac
}
need_train_config() {
    [ -f "${train_config}" ] ||
        fail "--train_config '${train_config}': no such file; see conf/"
}
check_config() {  # check_config [OUT]: also sets max_epoch, and frontend, which statistics need
    local x _dir _source _stage _settings
    need_train_config
    [ -f "${config}" ] ||
        fail "no ${config}: run stage 5 first (--stage 5 --train_start_iter ${iter})"
    for x in train valid; do
        _dir=_${x}_dir _source=${x}_source _stage=4
        if "${skip_data_prep}" || formatted "${!_source}"; then _stage=1; fi
        need "${!_dir}/wav.scp" "${_stage}"
    done
    check_sets 6
    log "Checking ${config}"
    # shellcheck disable=SC2086
    ${python} -m espnet2_birq.bin.ssl_train --config "${config}" \
        --dry_run true --iterator_type none --output_dir "${ssl_exp}/check" \
        --log_level WARNING --frontend_conf "fs=${fs}" --ngpu 0 ${ssl_args} \
        ${feats_normalize:+--normalize none}
    _settings=$(${python} -c "
import json, sys, yaml
conf = yaml.safe_load(sys.stdin)
print(conf['max_epoch'], json.dumps([conf['frontend'], conf['frontend_conf']], sort_keys=True))
" < "${ssl_exp}/check/config.yaml")
    max_epoch=${_settings%% *} frontend=${_settings#* }
    if [ -n "${1:-}" ]; then mv "${ssl_exp}/check/config.yaml" "$1"; fi
    rm -r "${ssl_exp}/check"
}

collect_statistics() {
    local x n _dir _shape _logdir _nj _scps _opts
    log "Stage 6: Statistics: ${ssl_stats_dir}"
    begin_preparing "${ssl_stats_dir}" 7
    not_in_use 6 7 "${ssl_stats_dir}"/splits*
    rm -rf "${ssl_stats_dir}"/{train,valid}/made_from.json "${ssl_stats_dir}"/splits*
    if [ "${feats_normalize}" != global_mvn ]; then
        # Lengths are known from stage 3, so the audio is not read again.
        for x in train valid; do
            mkdir -p "${ssl_stats_dir}/${x}"
            _dir=_${x}_dir _shape=${ssl_stats_dir}/${x}/speech_shape
            cp "${!_dir}/utt2num_samples" "${_shape}.part"
            mv "${_shape}.part" "${_shape}"
        done
    else
        _logdir=${ssl_stats_dir}/logdir
        mkdir -p "${_logdir}"
        _nj=${nj}
        for x in train valid; do
            _dir=_${x}_dir
            n=$(wc -l < "${!_dir}/wav.scp") _nj=$((n < _nj ? n : _nj))
        done
        for x in train valid; do
            _dir=_${x}_dir
            _scps=
            for n in $(seq "${_nj}"); do _scps+=" ${_logdir}/${x}.${n}.scp"; done
            # shellcheck disable=SC2086
            utils/split_scp.pl "${!_dir}/wav.scp" ${_scps}
        done
        # shellcheck disable=SC2086
        ${train_cmd} JOB=1:"${_nj}" "${_logdir}"/stats.JOB.log \
            ${python} -m espnet2_birq.bin.ssl_train \
                --collect_stats true --config "${config}" \
                --train_data_path_and_name_and_type "${_train_dir}/wav.scp,speech,${_train_type}" \
                --valid_data_path_and_name_and_type "${_valid_dir}/wav.scp,speech,${_valid_type}" \
                --train_shape_file "${_logdir}/train.JOB.scp" \
                --valid_shape_file "${_logdir}/valid.JOB.scp" \
                --output_dir "${_logdir}/stats.JOB" \
                --frontend_conf "fs=${fs}" ${ssl_args} --normalize none ||
            { tail -n 3 "${_logdir}"/stats.1.log; fail "see ${_logdir}/stats.*.log"; }
        _opts=
        for n in $(seq "${_nj}"); do _opts+="--input_dir ${_logdir}/stats.${n} "; done
        # shellcheck disable=SC2086
        ${python} -m espnet2.bin.aggregate_stats_dirs ${_opts} \
            --output_dir "${ssl_stats_dir}"
    fi
    for x in train valid; do made_from write stats "${x}"; done
    end_preparing
}

# Sets train_command, split_dir, and split_lists, the lists to split.
make_train_command() {
    local normalize=() labels=() scp=${_train_dir}/wav.scp
    local shape=${ssl_stats_dir}/train/speech_shape train_labels=
    split_dir=${ssl_stats_dir}/splits${num_splits_ssl}
    if [ -n "${labels_dir}" ]; then
        train_labels=${labels_dir}/${train_set}/labels.scp
        split_dir=${labels_dir}/splits${num_splits_ssl}
    fi
    split_lists=("${scp}" "${shape}" ${train_labels:+"${train_labels}"})
    if [ "${feats_normalize}" = global_mvn ]; then
        normalize=(--normalize global_mvn
            --normalize_conf "stats_file=${ssl_exp}/feats_stats.npz")
    fi
    if [ "${num_splits_ssl}" -gt 1 ]; then
        scp=${split_dir}/wav.scp shape=${split_dir}/speech_shape
        [ -z "${train_labels}" ] || train_labels=${split_dir}/labels.scp
        normalize+=(--multiple_iterator true)
    fi
    if [ -n "${labels_dir}" ]; then
        labels=(--train_data_path_and_name_and_type "${train_labels},labels,kaldi_ark"
            --valid_data_path_and_name_and_type
            "${labels_dir}/${valid_set}/labels.scp,labels,kaldi_ark")
    fi
    local jobname=${ssl_exp}/train.log
    [[ ${cuda_cmd} != *queue*.pl* ]] || jobname=${ssl_exp##*/}  # SGE allows no "/" in names
    # shellcheck disable=SC2206
    train_command=(${python} -m espnet2.bin.launch
        --cmd "${cuda_cmd} --name ${jobname}"
        --log "${ssl_exp}/train.log"
        --ngpu "${ngpu}" --num_nodes "${num_nodes}"
        --init_file_prefix "${ssl_exp}/.dist_init_"
        --multiprocessing_distributed true --
        ${python} -m espnet2_birq.bin.ssl_train
        --config "${config}"
        --train_data_path_and_name_and_type "${scp},speech,${_train_type}"
        --train_shape_file "${shape}"
        --valid_data_path_and_name_and_type
        "${_valid_dir}/wav.scp,speech,${_valid_type}"
        --valid_shape_file "${ssl_stats_dir}/valid/speech_shape"
        --resume true --fold_length "$((speech_fold_length * 100))"
        --output_dir "${ssl_exp}"
        --frontend_conf "fs=${fs}" ${normalize[@]+"${normalize[@]}"}
        ${labels[@]+"${labels[@]}"} ${ssl_args})
}

wait_for_state() {  # ends as Ctrl-C does, when the training has saved its state
    if [ "${cuda_cmd%% *}" = run.pl ]; then
        log "Ctrl-C: the training saves its state; press it again not to wait for that"
        flock --timeout 600 "${ssl_exp}/.lock" true || true
        log "Stopped; the same command resumes from the last saved state"
    fi
    trap - INT
    kill -INT $$
}

train() {
    local x _set _feats_stats interrupted=false
    for x in train valid; do
        need "${ssl_stats_dir}/${x}/speech_shape" 6
        made_from check stats "${x}"
        if [ -n "${labels_dir}" ]; then
            _set=${x}_set
            need "${labels_dir}/${!_set}/labels.scp" "5 --train_start_iter ${iter}"
            made_from check labels "${x}"
        fi
    done
    log "Stage 7: Training, log: '${ssl_exp}/train.log'"
    mkdir -p "${ssl_exp}"
    for x in checkpoint progress; do
        [ ! -e "${ssl_exp}/${x}.pth" ] || made_from check training
    done
    made_from write training
    make_train_command
    if [ "${feats_normalize}" = global_mvn ]; then
        # Keep the statistics next to the model, which always needs them. A resumed
        # training already has them.
        _feats_stats=${ssl_exp}/feats_stats.npz
        need "${ssl_stats_dir}/train/feats_stats.npz" 6
        [ -e "${ssl_exp}/checkpoint.pth" ] && [ -e "${_feats_stats}" ] ||
            cp "${ssl_stats_dir}/train/feats_stats.npz" "${ssl_exp}"
    fi
    if [ "${num_splits_ssl}" -gt 1 ]; then
        ! grep -qsE '^ *iterator_type: *category' "${config}" ||
            fail "--num_splits_ssl and iterator_type category exclude each other:" \
                "ESPnet's category sampler needs the whole set"
        # Stage 6 (with labels, stage 5) removes the parts; until then, a resumed training
        # reads the same ones.
        if [ ! -e "${split_dir}/.done" ]; then
            rm -rf "${split_dir}"
            # shellcheck disable=SC2086
            ${python} -m espnet2.bin.split_scps --num_splits "${num_splits_ssl}" \
                --scps "${split_lists[@]}" --output_dir "${split_dir}"
            touch "${split_dir}/.done"
        fi
    fi
    echo "exec ${run_args} --stage 7 --train_start_iter ${iter} \"\$@\"" \
        > "${ssl_exp}/run.sh"
    chmod +x "${ssl_exp}/run.sh"
    log "'${ssl_exp}/run.sh' resumes from here"
    if [ "${ngpu}" -eq 0 ]; then
        cpu_training "${num_threads:-$("${here}/../../../local/cores")}"
    fi
    set_averages_aside "${ssl_exp}" "${max_epoch}"
    trap '' USR1  # only the training reacts: it saves its state and exits with 85
    trap 'interrupted=true' INT  # so it does at Ctrl-C, but ESPnet's launcher dies
    "${train_command[@]}" || {
        if "${interrupted}"; then wait_for_state; fi
        [ "${ssl_exp}/train.log" -nt "${ssl_exp}/run.sh" ] ||  # it is of an earlier start
            fail "the training was not started: the message is above"
        # the last line of a log of run.pl, or of slurm.pl, queue.pl and pbs.pl
        grep -qE "^# (Ended \(code 85\)|Finished at .* with status 85$)" \
            "${ssl_exp}/train.log" || fail "see ${ssl_exp}/train.log"
        log "Stopped by a signal; the same command resumes from here"
        exit 85
    }
    trap - INT
    [ -e "${ssl_exp}/${inference_ssl_model}" ] ||
        fail "training has left no ${ssl_exp}/${inference_ssl_model}: its name comes" \
            "from best_model_criterion in ${config}; see --inference_ssl_model"
    log "Training completed, model: ${ssl_exp}/${inference_ssl_model}"
    ${python} -m espnet2_birq.bin.status "${ssl_exp}"
}
