#!/usr/bin/env bash
# shellcheck disable=SC2034  # variables are used in training.sh and relabel.sh
# Self-supervised pretraining in the stages of ESPnet's ssl.sh, with the same stage numbers,
# option names, folders and file formats. It reads only audio, no text.
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
skip_train=false     # Skip stages 5 to 7.
skip_packing=true    # Skip stage 8.
skip_upload_hf=true  # Skip stage 9.
ngpu=1               # Number of GPUs per node; 0 trains on the CPU.
num_nodes=1          # Number of nodes.
nj=32                # Number of parallel jobs in data preparation.
dumpdir=dump         # Folder for formatted audio.
expdir=exp           # Folder for experiments.
python=python3       # Python to use.
dry_run=false        # Print what would be run, without running or writing anything.

# Data
local_data_opts=       # Options for local/data.sh.
train_set=             # Training set: a folder of data/, or a path (required).
valid_set=             # Validation set, likewise (required).
speed_perturb_factors= # For example "0.9 1.0 1.1".
audio_format=flac      # wav, flac, wav.ark or flac.ark.
fs=16k                 # Sampling rate of the model.
resample=false         # Accept audio at other sampling rates and resample it.
min_wav_duration=0.5   # Minimum length of utterances in seconds.
max_wav_duration=30    # Maximum length of utterances in seconds.

# Training
train_config=            # Configuration (required from stage 6 on).
ssl_tag=                 # Suffix of the experiment's folder; default: from train_config.
ssl_args=                # Further options, e.g. "--max_epoch 10"; they override train_config.
feats_normalize=         # global_mvn (stage 6 collects statistics); default: train_config's.
speech_fold_length=800   # For batch_type folded (x 100 samples).
num_splits_ssl=1         # Number of parts of the training set's lists; one is in memory at a time.
num_threads=             # CPU threads for training with ngpu 0; default: all.
inference_ssl_model=valid.total_count.ave.pth # Model to pack, hand off, and label with.

# Relabelling, as in HuBERT
train_start_iter=0       # First iteration; 0 trains with train_config.
train_stop_iter=0        # Last iteration; from 1 on, each trains on labels from the one before.
features_km="none 70%"   # Source of each iteration's labels: none, mfcc, input, a layer, an objective.
n_clusters=500           # Number of k-means clusters in each iteration, e.g. "100 500".
relabel_config=          # Configuration from iteration 1 on; default: train_config with objective given.

# Publishing
license=                 # Licence on the model's card, e.g. cc-by-4.0.
private=false            # Make the repository of stage 9 private.
hf_repo=                 # Hugging Face repository for stage 9.

help_message=$(cat << EOF
Usage: $0 --train_set <name> --valid_set <name> --train_config conf/train_birq.yaml

A set is a folder of data/, or the path of a Kaldi data directory, or the path of a set
formatted by ESPnet (dump/raw/<name>), for which stages 2 to 4 are skipped. Nothing is
written to directories given by path.

Stages: 1 data, 2 speed perturbation, 3 format, 4 length filter, 5 labels (of
        iterations that need any), 6 statistics, 7 training (resumes where it stopped),
        8 pack, 9 upload to Hugging Face. Of several iterations, --stage is for the first.

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
here=$(dirname "$(readlink -f "$0")")  # recipes link to this script
. "${here}/training.sh"
. "${here}/relabel.sh"
. "${here}/dry_run.sh"
. "${here}/../../../local/data_record.sh"

[ $# -eq 0 ] || fail "no positional arguments are taken, got '$*'; see $0 --help"
[ -n "${train_set}" ] || fail "--train_set is required; see $0 --help"
[ -n "${valid_set}" ] || fail "--valid_set is required; see $0 --help"
[[ ${feats_normalize} =~ ^(global_mvn)?$ ]] || fail "--feats_normalize" \
    "${feats_normalize}: give global_mvn, or nothing and normalize: ... in the configuration"

whole_numbers 0 ngpu
check_stages 9
# By default, both are skipped.
uploads() { [ "${stop_stage}" -ge 9 ] && ! "${skip_upload_hf}"; }
if [ "${stage}" = 8 ] && "${skip_packing}" && ! uploads; then
    fail "--stage 8: packs only with --skip_packing false"
elif [ "${stage}" = 9 ] && ! uploads; then
    fail "--stage 9: uploads only with --skip_upload_hf false"
fi
whole_numbers 1 num_nodes nj speech_fold_length num_splits_ssl ${num_threads:+num_threads}
check_speed_factors "${speed_perturb_factors}"
no_spaces dumpdir expdir ssl_tag train_config

data_feats=${dumpdir}/raw
ssl_stats_dir=${expdir}/ssl_stats_raw
if [ -z "${ssl_tag}" ]; then ssl_tag=$(basename "${train_config:-train}" .yaml)_raw; fi
check_iterations

[ "$(awk -v s="${min_wav_duration}" 'BEGIN { print (s + 0 >= 0.15) }')" = 1 ] ||
    fail "--min_wav_duration ${min_wav_duration}: give at least 0.15 (seconds); for less," \
        "some encoders have no output frame"

run_stage() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }
trains() { ! "${skip_train}" && [ "${stage}" -le 7 ] && [ "${stop_stage}" -ge "$1" ]; }
if trains 6; then need_train_config; fi  # before hours of data preparation
need() {  # need FILE STAGE: fails if the file, made by that stage, is missing
    [ -s "$1" ] || fail "no $1: run stage $2 first (--stage $2)"
}

# Stage 1 imports a set given by its path, and names it by the last part of the path: a Kaldi
# data directory to data/, a formatted set to dump/raw/.
given_by_path() { [[ $1 == */* ]] || [ -e "$1/wav.scp" ]; }
train_source= valid_source=
for x in train valid; do
    _set=${x}_set
    if given_by_path "${!_set}"; then
        [ -d "${!_set}" ] || fail "--${_set} '${!_set}': no such directory"
        printf -v "${x}_source" %s "${!_set%/}"
        _name=$(set_name "${_set}" "${!_set}")
        printf -v "${_set}" %s "${_name}"
    fi
done
if [ -n "${train_source}${valid_source}" ] && [ "${train_set}" = "${valid_set}" ]; then
    fail "both sets would be called '${train_set}': give one by a link of another name"
fi
unperturbed=${train_set}  # input of stage 2
frontend= max_epoch=      # of the configuration, see check_config
formatted() { [ -n "$1" ] && [ -e "$1/feats_type" ]; }  # formatted SOURCE
makes_data() {  # whether stage 1 runs local/data.sh; without one, sets are in data/ already
    local x set source
    for x in train valid; do
        set=${x}_set source=${x}_source
        [ -z "${!source}" ] || continue
        [ ! -e local/data.sh ] || return 0
        [ -e "data/${!set}/wav.scp" ] || fail "--${set} ${!set}: no data/${!set}, nor a" \
            "local/data.sh to make it: give the path of a set"
    done
    return 1
}
adopt() {  # adopt SOURCE DEST
    # shellcheck disable=SC2086
    ${python} -m espnet2_birq.bin.adopt_data --fs "${fs}" \
        --min-seconds "${min_wav_duration}" --max-seconds "${max_wav_duration}" "$1" "$2"
}
check() {  # check RESAMPLE DIR...
    # shellcheck disable=SC2086
    ${python} -m espnet2_birq.bin.check_data --nj "$((nj < 128 ? nj : 128))" \
        --fs "${fs}" --resample "$@"
}
has_commands() { grep -q '| *$' "$1/wav.scp"; }
check_kaldi() {  # check_kaldi DIR...: checks them before any of their audio is copied
    local dir full wrong=false
    for dir; do
        # Checking all files is cheap compared with formatting. Running all commands of
        # wav.scp is not, so only some are run here; stage 3 then checks all of their output.
        if has_commands "${dir}"; then full=; else full=--full; fi
        # shellcheck disable=SC2086
        check "${resample}" ${full} "${dir}" || wrong=true
    done
    ! "${wrong}"
}
unformatted() {  # unformatted DIR KALDI_DIR: prints where format_wav_scp.sh's jobs stopped
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

if "${dry_run}"; then show_stages; exit 0; fi
if trains 7; then need_gpus; fi

# Records what outputs were made from (write, after a stage) and compares it (check, before a
# later stage uses them), since the data may have changed in between.
made_from() {  # made_from write|check adopted|perturbed|org|set|stats train|valid
    #            made_from write|check labels train|valid
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
            # Without a record, stage 1 failed after it had replaced the set.
            args+=(--required --setting "fs=${fs}" "${source}"/{wav.scp,segments,utt2num_samples}) ;;
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
        labels)
            made=${labels_dir}/${set} stage="5 --train_start_iter ${iter}"
            case "${labels_by[0]}" in
                --kmeans) args+=(--required "${labels_by[1]}"
                    --setting "view=${labels_view}" --setting "clusters=${labels_clusters}") ;;
                --objective) args+=(--required --option "objective=${labels_by[1]}") ;;
            esac
            args+=("${labels_model}" "${dump}/wav.scp")
            [[ ${labels_model} == *.yaml ]] ||
                args+=("$(dirname "${labels_model}")/config.yaml") ;;
        training)
            made=${ssl_exp} stage=
            args+=("${ssl_stats_dir}"/{train,valid}/speech_shape)
            if [ -n "${labels_dir}" ]; then
                args+=("${labels_dir}/${train_set}"/{made_from.json,labels.scp})
            fi ;;
        package)
            made=${packed_model} stage=8
            args+=("${ssl_exp}/${inference_ssl_model}" "${ssl_exp}/config.yaml") ;;
    esac
    local remedy="run stage ${stage} again (--stage ${stage})"
    [ -n "${stage}" ] || remedy="remove ${made} to train anew, or give another --ssl_tag"
    ${python} -m espnet2_birq.bin.stamp "$1" --remedy "${remedy}" "${made}" "${args[@]}"
}
formatted_here() {  # formatted_here write|check WHAT: made_from for sets of stages 2 to 4
    local x source
    for x in train valid; do
        source=${x}_source
        formatted "${!source}" || made_from "$1" "$2" "${x}"
    done
}
check_sets() {  # check_sets STAGE: checks the outputs of stages before STAGE
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

record_data() {  # record_data write|check: options of local/data.sh for data/<name>
    local set=${unperturbed}
    if [ -n "${train_source}" ]; then set=${valid_set}; fi
    if [ -n "${train_source}" ] && [ -n "${valid_source}" ]; then return 0; fi
    # shellcheck disable=SC2086
    data_record "$1" "data/${set}" "" ${local_data_opts}
}

# ------------------------------------------------------------------ data preparation
if "${skip_data_prep}" || ! run_stage 1; then record_data check; fi
prepares=false
if ! "${skip_data_prep}" && [ "${stage}" -le 4 ]; then prepares=true; fi
if "${prepares}"; then begin_preparing "${dumpdir}" 7; fi
if ! "${skip_data_prep}"; then
    if run_stage 1; then
        log "Stage 1: Data preparation for ${train_set}, ${valid_set}"
        if makes_data; then
            # shellcheck disable=SC2086
            local/data.sh ${local_data_opts}
            record_data write
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
            fail "--speed_perturb_factors needs a Kaldi data directory as --train_set"
        fi
        need "data/${train_set}/wav.scp" 1
        check_sets 2
        if [ -e "data/${train_set}/segments" ]; then
            _open=$(awk '$4 == -1 {print $1; exit}' "data/${train_set}/segments")
            [ -z "${_open}" ] || fail "data/${train_set}/segments: ${_open} ends at -1," \
                "and ESPnet's script would skip it: write its end in seconds"
        fi
        [ -e "data/${train_set}/utt2spk" ] || fail "data/${train_set}: no utt2spk, which" \
            "ESPnet's script needs: write one, or give the set by its path"
        check_kaldi "data/${train_set}"
        command -v sox >/dev/null ||
            fail "--speed_perturb_factors needs the program sox (Debian's package sox)"
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
        not_in_use 3 7 "${to_format[@]/#/${data_feats}/}"
        for dset in "${to_format[@]}"; do need "data/${dset}/wav.scp" 1; done
        check_sets 3
        check_kaldi "${to_format[@]/#/data/}"
        for dset in "${to_format[@]}"; do
            _dir=${data_feats}/org/${dset}
            rm -rf "${_dir}" && mkdir -p "${_dir}"
            # utils/copy_data_dir.sh would reject segments that end at -1.
            for _file in "data/${dset}"/{utt2spk,text}; do
                [ ! -e "${_file}" ] || cp "${_file}" "${_dir}"
            done
            _opts= _utterances=data/${dset}/wav.scp
            if [ -e "data/${dset}/segments" ]; then
                _utterances=data/${dset}/segments _opts="--segments ${_utterances}"
            fi
            # Without utt2spk, each utterance is its own speaker.
            [ -e "${_dir}/utt2spk" ] ||
                awk '{ print $1, $1 }' "${_utterances}" > "${_dir}/utt2spk"
            utils/utt2spk_to_spk2utt.pl "${_dir}/utt2spk" > "${_dir}/spk2utt"
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
            # Write to a temporary folder, since stage 6 only checks that wav.scp exists.
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

if "${prepares}"; then end_preparing; fi

# -------------------------------------------------------------------------- training
_train_dir=${data_feats}/${train_set}
_valid_dir=${data_feats}/${valid_set}
_train_type=$(audio_type "${_train_dir}")
_valid_type=$(audio_type "${_valid_dir}")

if "${skip_train}"; then use_iteration "${train_stop_iter}"; else iterate; fi

# ------------------------------------------------------------------------- publishing
if ! "${skip_packing}" && run_stage 8; then
    log "Stage 8: Pack model: ${packed_model}"
    need "${ssl_exp}/${inference_ssl_model}" 7
    ${python} -m espnet2_birq.bin.model_card "${ssl_exp}/${inference_ssl_model}" \
        --out "${ssl_exp}/README.md" ${license:+--license "${license}"} \
        ${hf_repo:+--repository "${hf_repo}"}
    _opts="--option ${ssl_exp}/images --option ${ssl_exp}/README.md"
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
    cp "${ssl_exp}/README.md" "${_dir}"  # where the hub looks for a model's card
    _opts=()
    if "${private}"; then _opts+=(--private); fi
    hf upload "${hf_repo}" "${_dir}" . "${_opts[@]}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
