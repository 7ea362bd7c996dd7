#!/usr/bin/env bash
# Self-supervised pretraining, stage by stage, as ESPnet's ssl.sh does it: same stage
# numbers, option names, folders and file formats. Audio only: no text is read.
set -e
set -u
set -o pipefail

log() {
    echo -e "$(date +%FT%T) (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
fail() { echo "birq.sh: error: $*" >&2; exit 1; }
SECONDS=0

# General configuration
stage=1              # First stage to run.
stop_stage=10000     # Last stage to run.
skip_data_prep=false # Skip stages 1 to 4.
skip_train=false     # Skip stages 6 and 7.
skip_packing=true    # Skip stage 8.
skip_upload_hf=true  # Skip stage 9.
ngpu=1               # Number of GPUs of each node; 0 trains on the CPU.
num_nodes=1          # Number of nodes.
nj=32                # Number of parallel jobs in data preparation.
dumpdir=dump         # Where formatted audio goes.
expdir=exp           # Where experiments go.
python=python3       # The Python to use.

# Data
local_data_opts=       # Options for local/data.sh.
train_set=             # Training set: a folder of data/, or a path (required).
valid_set=             # Validation set, likewise (required).
speed_perturb_factors= # For example "0.9 1.0 1.1".
audio_format=flac      # wav, flac, wav.ark or flac.ark.
fs=16k                 # Sampling rate of the model.
resample=false         # Accept audio of another rate and resample it.
min_wav_duration=0.5   # Shorter utterances are left out (seconds).
max_wav_duration=30    # Longer utterances are left out (seconds).

# Training
train_config=            # Configuration (required from stage 6 on).
ssl_tag=                 # Suffix of the experiment's folder; default: from train_config.
ssl_args=                # Further options, e.g. "--max_epoch 10"; they win.
feats_normalize=         # global_mvn (stage 6 collects statistics); default: train_config's.
speech_fold_length=800   # For batch_type folded (x 100 samples).
num_splits_ssl=1         # Parts of the training set's lists; one at a time is in memory.
num_threads=             # CPU threads of training with ngpu 0; default: all.
inference_ssl_model=valid.total_count.ave.pth # Model to pack and hand off.
hf_repo=                 # Hugging Face repository for stage 9.

help_message=$(cat << EOF
Usage: $0 --train_set <name> --valid_set <name> --train_config conf/train_birq.yaml

A set is a folder of data/, or the path of a Kaldi data directory anywhere, or of a set
that ESPnet has formatted (dump/raw/<name>), which skips stages 2 to 4. Nothing is written
into either.

Stages: 1 data, 2 speed perturbation, 3 format, 4 length filter, 6 statistics,
        7 training (resumes where it stopped), 8 pack, 9 upload to Hugging Face.

Options (defaults):
$(sed -n '/^# General configuration/,/^hf_repo=/s/^\([a-z_]*\)=\([^#]*\)# \(.*\)/    --\1 (\2) \3/p' "$0" | sed 's/ *) /) /')
EOF
)

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then echo "${help_message}"; exit 0; fi
. ./path.sh
log "$0 $*"
run_args=$(scripts/utils/print_args.sh "$0" "$@")
. utils/parse_options.sh
. ./cmd.sh

[ $# -eq 0 ] || fail "no positional arguments are taken, got '$*'; see $0 --help"
[ -n "${train_set}" ] || fail "--train_set is required; see $0 --help"
[ -n "${valid_set}" ] || fail "--valid_set is required; see $0 --help"
[[ ${feats_normalize} =~ ^(global_mvn)?$ ]] || fail "--feats_normalize" \
    "${feats_normalize}: give global_mvn, or nothing and normalize: ... in the configuration"

data_feats=${dumpdir}/raw
ssl_stats_dir=${expdir}/ssl_stats_raw
if [ -z "${ssl_tag}" ]; then ssl_tag=$(basename "${train_config:-train}" .yaml)_raw; fi
ssl_exp=${expdir}/ssl_${ssl_tag}
packed_model=${ssl_exp}/${ssl_exp##*/}_${inference_ssl_model%.*}.zip

[ "$(awk -v s="${min_wav_duration}" 'BEGIN { print (s + 0 >= 0.15) }')" = 1 ] ||
    fail "--min_wav_duration ${min_wav_duration}: give at least 0.15 (seconds); of less," \
        "some encoders make no frame"

run_stage() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }
need() {  # need FILE STAGE: the file that stage makes is there
    [ -s "$1" ] || fail "no $1: run stage $2 first (--stage $2)"
}

# A set given by path is taken over in stage 1, under the last part of the path: a Kaldi
# data directory into data/, a formatted set into dump/raw/ itself.
given_by_path() { [[ $1 == */* ]] || [ -e "$1/wav.scp" ]; }
train_source= valid_source=
for x in train valid; do
    _set=${x}_set
    if given_by_path "${!_set}"; then
        [ -d "${!_set}" ] || fail "--${_set} '${!_set}': no such directory"
        printf -v "${x}_source" %s "${!_set%/}"
        printf -v "${_set}" %s "$(basename "${!_set}")"
        [[ ${!_set} =~ ^[[:alnum:]._-]+$ ]] || fail "'${!_set}' cannot be the name of a" \
            "set: give --${_set} by a link whose name has letters, digits, . _ - only"
    fi
done
if [ -n "${train_source}${valid_source}" ] && [ "${train_set}" = "${valid_set}" ]; then
    fail "both sets would be called '${train_set}': give one by a link of another name"
fi
unperturbed=${train_set}  # what stage 2 starts from
frontend=                 # settings that statistics of features depend on, see below
formatted() { [ -n "$1" ] && [ -e "$1/feats_type" ]; }  # formatted SOURCE
adopt() {  # adopt SOURCE DEST
    # shellcheck disable=SC2086
    ${python} -m espnet2_birq.bin.adopt_data --fs "$(rate)" \
        --min-seconds "${min_wav_duration}" --max-seconds "${max_wav_duration}" "$1" "$2"
}
check() {  # check RESAMPLE DIR...
    # shellcheck disable=SC2086
    ${python} -m espnet2_birq.bin.check_data --nj "$((nj < 128 ? nj : 128))" \
        --fs "$(rate)" --resample "$@"
}
has_commands() { grep -q '| *$' "$1/wav.scp"; }
check_kaldi() {  # check_kaldi DIR...: before any of their audio is copied
    local dir full wrong=false
    for dir; do
        # All files: that is nothing beside formatting them. Running all commands would
        # be as much as that, so here some are, and all of their output is checked then.
        if has_commands "${dir}"; then full=; else full=--full; fi
        # shellcheck disable=SC2086
        check "${resample}" ${full} "${dir}" || wrong=true
    done
    ! "${wrong}"
}
unformatted() {  # unformatted DIR KALDI_DIR: where format_wav_scp.sh's jobs stopped
    local list made utt recording more
    for list in "$1"/logs/wav.*.scp "$1"/logs/segments.*; do
        made=$(basename "${list}" .scp)
        made=$1/data/format.${made##*.}/wav.scp
        [ -e "${list}" ] && [ -e "${made}" ] || continue
        sed -n "$(($(wc -l < "${made}") + 1))p" "${list}" |
            while read -r utt recording more; do
                if [[ ${list} == */segments.* ]]; then
                    more="$(grep "^${recording} " "$2/wav.scp")"
                fi
                echo "birq.sh: error: not formatted: ${utt} ${recording} ${more}" >&2
            done
    done
}
rate() { ${python} -c "import humanfriendly as h; print(h.parse_size('${fs}'))"; }

# What is made from what: noted when a stage ends (write), compared before a later stage
# uses it (check), since the data may have changed in between.
made_from() {  # made_from write|check adopted|perturbed|org|set|stats train|valid
    #            made_from write|check training|package
    local made stage args=() set=${3:-train}_set source=${3:-train}_source
    set=${!set} source=${!source}
    local kaldi=data/${set} dump=${data_feats}/${set}
    local limits=(--option "min_wav_duration=${min_wav_duration}"
        --option "max_wav_duration=${max_wav_duration}")
    case "$2" in
        adopted)
            made=${kaldi} stage=1
            if [ "${3}" = train ]; then made=data/${unperturbed}; fi
            if formatted "${source}"; then made=${dump} args+=("${limits[@]}"); fi
            if [ "${source}" -ef "${made}" ]; then return 0; fi
            args+=("${source}"/{wav.scp,segments,utt2num_samples}) ;;
        perturbed)
            made=${kaldi} stage=2
            args+=(--option "speed_perturb_factors=${speed_perturb_factors}")
            args+=("data/${unperturbed}"/{wav.scp,segments}) ;;
        org)
            made=${data_feats}/org/${set} stage=3
            args+=(--option "fs=${fs}" --option "audio_format=${audio_format}")
            args+=("${kaldi}"/{wav.scp,segments}) ;;
        set)
            made=${dump} stage=4 args+=("${limits[@]}")
            args+=("${data_feats}/org/${set}"/{wav.scp,utt2num_samples}) ;;
        stats)
            made=${ssl_stats_dir}/$3 stage=6
            args+=(--required ${feats_normalize:+--option "global_mvn=${frontend}"}
                "${dump}"/{wav.scp,utt2num_samples}) ;;
        training)
            made=${ssl_exp} stage=
            args+=("${ssl_stats_dir}"/{train,valid}/speech_shape) ;;
        package)
            made=${packed_model} stage=8
            args+=("${ssl_exp}/${inference_ssl_model}" "${ssl_exp}/config.yaml") ;;
    esac
    local remedy="run stage ${stage} again (--stage ${stage})"
    [ -n "${stage}" ] || remedy="remove ${made} to train anew, or give another --ssl_tag"
    ${python} -m espnet2_birq.bin.stamp "$1" --remedy "${remedy}" "${made}" "${args[@]}"
}
formatted_here() {  # formatted_here write|check WHAT: for the sets that stages 2 to 4 make
    local x source
    for x in train valid; do
        source=${x}_source
        formatted "${!source}" || made_from "$1" "$2" "${x}"
    done
}
check_sets() {  # check_sets STAGE: compare what stages before STAGE have made of the data
    local x source
    for x in train valid; do
        source=${x}_source
        if [ -n "${!source}" ]; then made_from check adopted "${x}"; fi
    done
    if [ "$1" -gt 2 ] && [ -n "${speed_perturb_factors}" ]; then
        made_from check perturbed train
    fi
    if [ "$1" -gt 3 ]; then formatted_here check org; fi
    if [ "$1" -gt 4 ]; then formatted_here check set; fi
}

# ------------------------------------------------------------------ data preparation
if ! "${skip_data_prep}"; then
    if run_stage 1; then
        log "Stage 1: Data preparation for ${train_set}, ${valid_set}"
        if [ -z "${train_source}" ] || [ -z "${valid_source}" ]; then
            [ -e local/data.sh ] || fail "there is no local/data.sh that would make" \
                "data/<name>: give both sets by their paths"
            # shellcheck disable=SC2086
            local/data.sh ${local_data_opts}
        fi
        for x in train valid; do
            _set=${x}_set _source=${x}_source
            if formatted "${!_source}"; then
                adopt "${!_source}" "${data_feats}/${!_set}"
                check false "${data_feats}/${!_set}"
            elif [ -n "${!_source}" ]; then
                adopt "${!_source}" "data/${!_set}"
            else
                continue
            fi
            made_from write adopted "${x}"
        done
    fi

    if run_stage 2 && [ -n "${speed_perturb_factors}" ]; then
        log "Stage 2: Speed perturbation: data/${train_set} -> data/${train_set}_sp"
        if formatted "${train_source}"; then
            fail "--speed_perturb_factors wants a Kaldi data directory as --train_set"
        fi
        need "data/${train_set}/wav.scp" 1
        check_sets 2
        if [ -e "data/${train_set}/segments" ]; then
            _open=$(awk '$4 == -1 {print $1; exit}' "data/${train_set}/segments")
            [ -z "${_open}" ] || fail "data/${train_set}/segments: ${_open} ends at -1," \
                "and ESPnet's script would leave it out: write its end in seconds"
        fi
        check_kaldi "data/${train_set}"
        command -v sox >/dev/null ||
            fail "--speed_perturb_factors wants the program sox (Debian's package sox)"
        _dirs=
        for factor in ${speed_perturb_factors}; do
            _dir=data/${train_set}
            if ${python} -c "assert ${factor} != 1.0" 2>/dev/null; then
                _dir+=_sp${factor}
                scripts/utils/perturb_data_dir_speed.sh \
                    "${factor}" "data/${train_set}" "${_dir}"
            fi
            _dirs+="${_dir} "
        done
        # shellcheck disable=SC2086
        utils/combine_data.sh "data/${train_set}_sp" ${_dirs}
        train_set=${train_set}_sp made_from write perturbed train
    fi
fi
if [ -n "${speed_perturb_factors}" ]; then train_set=${train_set}_sp; fi
to_format=()
formatted "${train_source}" || to_format+=("${train_set}")
formatted "${valid_source}" || to_format+=("${valid_set}")
if [ ${#to_format[@]} -eq 0 ]; then skip_data_prep=true; fi

if ! "${skip_data_prep}"; then
    if run_stage 3; then
        log "Stage 3: Format wav.scp: data/ -> ${data_feats}/org"
        for dset in "${to_format[@]}"; do need "data/${dset}/wav.scp" 1; done
        check_sets 3
        check_kaldi "${to_format[@]/#/data/}"
        for dset in "${to_format[@]}"; do
            _dir=${data_feats}/org/${dset}
            rm -rf "${_dir}" && mkdir -p "${_dir}"
            # Not by utils/copy_data_dir.sh, which refuses segments that end at -1.
            for _file in "data/${dset}"/{utt2spk,text}; do
                [ ! -e "${_file}" ] || cp "${_file}" "${_dir}"
            done
            utils/utt2spk_to_spk2utt.pl "${_dir}/utt2spk" > "${_dir}/spk2utt"
            _opts=
            [ ! -e "data/${dset}/segments" ] || _opts="--segments data/${dset}/segments"
            # shellcheck disable=SC2086
            scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" \
                --audio-format "${audio_format}" --fs "${fs}" ${_opts} \
                "data/${dset}/wav.scp" "${_dir}" ||
                { unformatted "${_dir}" "data/${dset}"; fail "see ${_dir}/logs"; }
            if has_commands "data/${dset}"; then check false --full "${_dir}"; fi
            echo raw > "${_dir}/feats_type"
            echo "${audio_format}" > "${_dir}/audio_format"
        done
        formatted_here write org
    fi

    if run_stage 4; then
        log "Stage 4: Length filter: ${data_feats}/org -> ${data_feats}"
        check_sets 4
        for dset in "${to_format[@]}"; do
            # Made beside its place and moved there whole: stage 6 looks for wav.scp.
            _from=${data_feats}/org/${dset} _to=${data_feats}/${dset}.part
            need "${_from}/feats_type" 3
            rm -rf "${_to}"
            utils/copy_data_dir.sh --validate_opts "--non-print --no-text" \
                "${_from}" "${_to}"
            cp "${_from}"/{feats_type,audio_format} "${_to}"
            awk -v fs="$(rate)" -v min="${min_wav_duration}" -v max="${max_wav_duration}" \
                'min * fs < $2 && $2 < max * fs' \
                "${_from}/utt2num_samples" > "${_to}/utt2num_samples"
            utils/filter_scp.pl "${_to}/utt2num_samples" "${_from}/wav.scp" \
                > "${_to}/wav.scp"
            _all=$(wc -l < "${_from}/wav.scp") _kept=$(wc -l < "${_to}/wav.scp")
            log "${dset}: ${_kept} of ${_all} utterances are longer than" \
                "${min_wav_duration} s and shorter than ${max_wav_duration} s"
            [ "${_kept}" -gt 0 ] || fail "${dset}: no utterance is left, see" \
                "--min_wav_duration and --max_wav_duration"
            utils/fix_data_dir.sh "${_to}"
            rm -rf "${_to%.part}"
            mv "${_to}" "${_to%.part}"
        done
        formatted_here write set
    fi
fi

# -------------------------------------------------------------------------- training
_train_dir=${data_feats}/${train_set}
_valid_dir=${data_feats}/${valid_set}
audio_type() {  # audio_type DIR: how ESPnet is to read its wav.scp
    case "$(cat "$1/audio_format" 2>/dev/null || echo "${audio_format}")" in
        *ark*) echo kaldi_ark ;;
        *) echo sound ;;
    esac
}
_train_type=$(audio_type "${_train_dir}")
_valid_type=$(audio_type "${_valid_dir}")

if ! "${skip_train}"; then
    if run_stage 6 || run_stage 7; then
        [ -f "${train_config}" ] ||
            fail "--train_config '${train_config}': no such file; see conf/"
        for x in train valid; do
            _dir=_${x}_dir _source=${x}_source _stage=4
            if formatted "${!_source}"; then _stage=1; fi
            need "${!_dir}/wav.scp" "${_stage}"
        done
        check_sets 6
        log "Checking ${train_config}"
        # shellcheck disable=SC2086
        ${python} -m espnet2_birq.bin.ssl_train --config "${train_config}" \
            --dry_run true --iterator_type none --output_dir "${ssl_exp}/check" \
            --log_level WARNING --frontend_conf "fs=${fs}" --ngpu 0 ${ssl_args} \
            ${feats_normalize:+--normalize none}
        frontend=$(${python} -c "
import json, sys, yaml
conf = yaml.safe_load(sys.stdin)
print(json.dumps([conf['frontend'], conf['frontend_conf']], sort_keys=True))
" < "${ssl_exp}/check/config.yaml")
        rm -r "${ssl_exp}/check"
    fi

    if run_stage 6; then
        log "Stage 6: Statistics: ${ssl_stats_dir}"
        rm -rf "${ssl_stats_dir}"/{train,valid}/made_from.json "${ssl_stats_dir}"/splits*
        if [ "${feats_normalize}" != global_mvn ]; then
            # The shapes are known since stage 3: no need to read the audio again.
            for x in train valid; do
                mkdir -p "${ssl_stats_dir}/${x}"
                _dir=_${x}_dir _shape=${ssl_stats_dir}/${x}/speech_shape
                cp "${!_dir}/utt2num_samples" "${_shape}.part"
                mv "${_shape}.part" "${_shape}"
            done
        else
            _logdir=${ssl_stats_dir}/logdir
            mkdir -p "${_logdir}"
            _nj=$(wc -l < "${_valid_dir}/wav.scp") _nj=$((_nj < nj ? _nj : nj))
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
                    --collect_stats true --config "${train_config}" \
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
    fi

    if run_stage 7; then
        for x in train valid; do
            need "${ssl_stats_dir}/${x}/speech_shape" 6
            made_from check stats "${x}"
        done
        log "Stage 7: Training, log: '${ssl_exp}/train.log'"
        mkdir -p "${ssl_exp}"
        for x in checkpoint progress; do
            [ ! -e "${ssl_exp}/${x}.pth" ] || made_from check training
        done
        made_from write training
        _opts=
        if [ "${feats_normalize}" = global_mvn ]; then
            # Beside the model, which needs them wherever it is used. A training that is
            # resumed has them already.
            _feats_stats=${ssl_exp}/feats_stats.npz
            need "${ssl_stats_dir}/train/feats_stats.npz" 6
            [ -e "${ssl_exp}/checkpoint.pth" ] && [ -e "${_feats_stats}" ] ||
                cp "${ssl_stats_dir}/train/feats_stats.npz" "${ssl_exp}"
            _opts="--normalize global_mvn --normalize_conf stats_file=${_feats_stats} "
        fi
        _train_scp=${_train_dir}/wav.scp _train_shape=${ssl_stats_dir}/train/speech_shape
        if [ "${num_splits_ssl}" -gt 1 ]; then
            ! grep -qsE '^ *iterator_type: *category' "${train_config}" ||
                fail "--num_splits_ssl and iterator_type category exclude each other:" \
                    "ESPnet's category sampler wants the whole set"
            _split_dir=${ssl_stats_dir}/splits${num_splits_ssl}
            # Stage 6 removes them; until then, a resumed training reads the same.
            if [ ! -e "${_split_dir}/.done" ]; then
                rm -rf "${_split_dir}"
                ${python} -m espnet2.bin.split_scps --num_splits "${num_splits_ssl}" \
                    --scps "${_train_scp}" "${_train_shape}" --output_dir "${_split_dir}"
                touch "${_split_dir}/.done"
            fi
            _train_scp=${_split_dir}/wav.scp _train_shape=${_split_dir}/speech_shape
            _opts+="--multiple_iterator true "
        fi
        echo "${run_args} --stage 7 \"\$@\"; exit \$?" > "${ssl_exp}/run.sh"
        chmod +x "${ssl_exp}/run.sh"
        log "'${ssl_exp}/run.sh' resumes from here"
        jobname=${ssl_exp}/train.log
        [[ ${cuda_cmd} != *queue*.pl* ]] || jobname=${ssl_exp##*/}  # SGE: no "/" in a name
        if [ "${ngpu}" -eq 0 ]; then
            cpu_training "${num_threads:-$("$(dirname "$(readlink -f "$0")")/../../../local/cores")}"
        fi
        trap '' USR1  # for the training alone, which saves its state and exits with 85
        # shellcheck disable=SC2086
        ${python} -m espnet2.bin.launch \
            --cmd "${cuda_cmd} --name ${jobname}" \
            --log "${ssl_exp}"/train.log \
            --ngpu "${ngpu}" --num_nodes "${num_nodes}" \
            --init_file_prefix "${ssl_exp}"/.dist_init_ \
            --multiprocessing_distributed true -- \
            ${python} -m espnet2_birq.bin.ssl_train \
                --config "${train_config}" \
                --train_data_path_and_name_and_type "${_train_scp},speech,${_train_type}" \
                --train_shape_file "${_train_shape}" \
                --valid_data_path_and_name_and_type "${_valid_dir}/wav.scp,speech,${_valid_type}" \
                --valid_shape_file "${ssl_stats_dir}/valid/speech_shape" \
                --resume true --fold_length "$((speech_fold_length * 100))" \
                --output_dir "${ssl_exp}" \
                --frontend_conf "fs=${fs}" ${_opts} ${ssl_args} || {
            grep -q "^# Ended (code 85" "${ssl_exp}/train.log" || fail "see ${ssl_exp}/train.log"
            log "Stopped by a signal; the same command goes on where this one stops"
            exit 85
        }
        [ -e "${ssl_exp}/${inference_ssl_model}" ] ||
            fail "training has left no ${ssl_exp}/${inference_ssl_model}: its name comes" \
                "from best_model_criterion in ${train_config}; see --inference_ssl_model"
        log "Training completed, model: ${ssl_exp}/${inference_ssl_model}"
    fi
fi

# ------------------------------------------------------------------------- publishing
if ! "${skip_packing}" && run_stage 8; then
    log "Stage 8: Pack model: ${packed_model}"
    need "${ssl_exp}/${inference_ssl_model}" 7
    _opts="--option ${ssl_exp}/images"
    [ ! -e "${ssl_exp}/feats_stats.npz" ] || _opts+=" --option ${ssl_exp}/feats_stats.npz"
    # shellcheck disable=SC2086
    ${python} -m espnet2.bin.pack ssl --outpath "${packed_model}" ${_opts} \
        --ssl_train_config "${ssl_exp}/config.yaml" \
        --ssl_model_file "${ssl_exp}/${inference_ssl_model}"
    made_from write package
fi

if ! "${skip_upload_hf}" && run_stage 9; then
    [ -n "${hf_repo}" ] || fail "--hf_repo is required, e.g. <your name>/<model name>"
    log "Stage 9: Upload to Hugging Face: ${hf_repo}"
    need "${packed_model}" 8
    made_from check package
    _dir=${expdir}/hf_${hf_repo//\//_}
    rm -rf "${_dir}" && mkdir -p "${_dir}"
    ${python} -m zipfile -e "${packed_model}" "${_dir}"
    hf upload "${hf_repo}" "${_dir}" .
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
