# shellcheck shell=bash
# shellcheck disable=SC2034  # the variables are those of birq.sh
# Sourced by birq.sh: iterations, and stage 5, which labels the sets for an iteration.

entry() {  # entry LIST K: prints word K of LIST, counted from 0; its last word if it has fewer
    local words
    read -r -a words <<< "$1"
    echo "${words[$(($2 < ${#words[@]} ? $2 : ${#words[@]} - 1))]}"
}

check_iterations() {
    local k source number
    [[ ${train_start_iter} =~ ^[0-9]+$ && ${train_stop_iter} =~ ^[0-9]+$ ]] &&
        [ "${train_start_iter}" -le "${train_stop_iter}" ] ||
        fail "--train_start_iter ${train_start_iter} --train_stop_iter" \
            "${train_stop_iter}: give numbers from 0, the second not below the first"
    [ -z "${relabel_config}" ] || [ -f "${relabel_config}" ] ||
        fail "--relabel_config '${relabel_config}': no such file"
    [ -z "${relabel_config}" ] || [ "${train_stop_iter}" -gt 0 ] ||
        fail "--relabel_config is for iterations from 1 on: give --train_stop_iter, too"
    [ -n "${features_km}" ] && [ -n "${n_clusters}" ] ||
        fail "--features_km and --n_clusters have an entry for each iteration"
    for k in $(seq 0 "${train_stop_iter}"); do
        source=$(entry "${features_km}" "${k}") number=$(entry "${n_clusters}" "${k}")
        [[ ${number} =~ ^[0-9]+$ ]] || fail "--n_clusters '${n_clusters}': give numbers"
        [[ ${source} =~ ^([0-9]+%?|[A-Za-z_][A-Za-z_0-9]*)$ ]] ||
            fail "--features_km '${features_km}': '${source}' is none, mfcc, input, a" \
                "layer as 6 or 70%, or an objective of the model before"
        [ "${source}" != input ] || [ -z "${feats_normalize}" ] || fail "--features_km" \
            "'${features_km}': input cannot be clustered with --feats_normalize: use a" \
            "configuration with normalize: utterance_mvn, or mfcc"
        if [ "${k}" -eq 0 ]; then
            [[ ${source} =~ ^(none|mfcc|input)$ ]] || fail "--features_km" \
                "'${features_km}': iteration 0 has no model before: give none, mfcc or input"
        elif [ "${source}" = none ]; then
            fail "--features_km '${features_km}': labels of iteration ${k} are of" \
                "something, such as a layer: 70%"
        elif [ "${k}" -gt 1 ] && [ -z "${relabel_config}" ] &&
                ! [[ ${source} =~ ^(mfcc|input|[0-9].*)$ ]]; then
            fail "--features_km '${features_km}', '${source}': the model of iteration" \
                "$((k - 1)) has the objective given alone; give a --relabel_config with" \
                "'${source}', of weight 0 if it is not to be learned"
        fi
    done
}

# Sets iter, and for this iteration ssl_exp, packed_model, config, the source of its labels
# and labels_dir, which is empty without labels from disk. Iteration 0 has the names it would
# have as the only one.
use_iteration() {  # use_iteration ITER
    local name=${ssl_tag} before=${ssl_tag}
    iter=$1
    if [ "${iter}" -gt 0 ]; then name+=_iter${iter}; fi
    if [ "${iter}" -gt 1 ]; then before+=_iter$((iter - 1)); fi
    ssl_exp=${expdir}/ssl_${name}
    packed_model=${ssl_exp}/${ssl_exp##*/}_${inference_ssl_model%.*}.zip
    labels_source=$(entry "${features_km}" "${iter}")
    labels_dir= config=${train_config}
    if [ "${labels_source}" = none ]; then return; fi
    labels_dir=${dumpdir}/labels/${name}
    config=${labels_dir}/train.yaml labels_by=(--kmeans "${labels_dir}/kmeans.npz")
    labels_model=${expdir}/ssl_${before}/${inference_ssl_model} labels_view=${labels_source}
    labels_clusters=$(entry "${n_clusters}" "${iter}")
    case "${labels_source}" in
        mfcc|input) labels_model=${labels_dir}/source.yaml ;;
        [0-9]*) labels_view="layer ${labels_source}" ;;
        *) labels_by=(--objective "${labels_source}") ;;
    esac
    if [ "${iter}" -gt 0 ] && [ -n "${relabel_config}" ]; then
        config=${relabel_config}
    fi
}

# Whether to run a stage of the current iteration: --stage up to 7 applies only to the first
# one, and the statistics of stage 6 serve all iterations.
due() {  # due STAGE
    if [ "${iter}" -gt "${train_start_iter}" ] && [ "${stage}" -le 7 ]; then
        [ "$1" -ne 6 ]
    else
        run_stage "$1"
    fi
}

label_with() {  # label_with COMMAND OPTIONS: runs it, here or on a cluster, on a GPU if ngpu > 0
    local command=$1 run=${train_cmd} device=cpu
    shift
    if [ "${ngpu}" -gt 0 ]; then run="${cuda_cmd} --gpu 1" device=cuda; fi
    # shellcheck disable=SC2086
    ${run} "${labels_dir}/logs/${command}.log" \
        ${python} -m "espnet2_birq.bin.${command}" --device "${device}" "$@" ||
        { tail -n 3 "${labels_dir}/logs/${command}.log"; fail "see ${labels_dir}/logs"; }
}

relabel() {
    local x _dir _type _set
    log "Stage 5: Labels of iteration ${iter}, from ${labels_source}: ${labels_dir}"
    begin_preparing "${labels_dir}" "7 --train_start_iter ${iter}"
    not_in_use 5 "7 --train_start_iter ${iter}" "${labels_dir}"/{"${train_set}","${valid_set}"} \
        "${labels_dir}"/splits*
    mkdir -p "${labels_dir}/logs"
    rm -rf "${labels_dir}"/splits*
    if [[ ${labels_source} =~ ^(mfcc|input)$ ]]; then
        config=${train_config} check_config "${labels_dir}/full.yaml"
        # Keep only what the frames depend on, so that other settings do not change the file.
        ${python} -c "
import sys, yaml
conf = yaml.safe_load(sys.stdin)
keys = [x for x in conf if x.split('_')[0] in ('frontend', 'normalize', 'encoder')]
yaml.safe_dump({key: conf[key] for key in keys}, sys.stdout)
" < "${labels_dir}/full.yaml" > "${labels_model}"
        rm "${labels_dir}/full.yaml"
    else
        need "${labels_model}" "7, of iteration $((iter - 1)),"
    fi
    if [ "${ngpu}" -eq 0 ]; then
        cpu_training "${num_threads:-$("${here}/../../../local/cores")}"
    fi
    if [ "${labels_by[0]}" = --kmeans ]; then
        label_with fit_kmeans --model "${labels_model}" --view "${labels_view}" \
            --clusters "${labels_clusters}" \
            --data "${_train_dir}/wav.scp,speech,${_train_type}" \
            --out "${labels_dir}/kmeans.npz"
    fi
    for x in train valid; do
        _dir=_${x}_dir _type=_${x}_type _set=${x}_set
        label_with dump_labels --model "${labels_model}" "${labels_by[@]}" \
            --data "${!_dir}/wav.scp,speech,${!_type}" --out "${labels_dir}/${!_set}"
    done
    end_preparing
}

# Writes the configuration to train with on labels, unless it is --relabel_config. It is
# written in each run, since --train_config may have changed since stage 5.
write_config() {
    local size=${labels_dir}/${train_set}/codebook_size
    [ "${config}" = "${labels_dir}/train.yaml" ] && [ -f "${size}" ] || return 0
    ${python} -c "
import sys, yaml
conf = yaml.safe_load(open(sys.argv[1]))
size = int(open(sys.argv[2]).read())
for key in ('teacher_conf', 'tokenizer_conf', 'target_branch_conf'):
    conf.pop(key, None)  # of objectives that are replaced
conf['objectives'] = [{'name': 'given', 'labeller_conf': {'codebook_size': size}}]
yaml.safe_dump(conf, sys.stdout, sort_keys=False)
" "${train_config}" "${size}" > "${labels_dir}/train.yaml.part"
    mv "${labels_dir}/train.yaml.part" "${labels_dir}/train.yaml"
}

iterate() {
    local last=${train_stop_iter}
    # Without training, there is no model to label the next iteration with.
    if [ "${stop_stage}" -lt 7 ]; then last=${train_start_iter}; fi
    for iter in $(seq "${train_start_iter}" "${last}"); do
        use_iteration "${iter}"
        if [ -n "${labels_dir}" ] && due 5; then relabel; fi
        if due 6 || due 7; then
            if [ -n "${labels_dir}" ]; then write_config; fi
            check_config
        fi
        if due 6; then collect_statistics; fi
        if due 7; then train; fi
    done
    use_iteration "${last}"
}
