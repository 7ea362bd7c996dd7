# shellcheck shell=bash
# Checks of options about data, locks of its folders, and a record of the options of
# local/data.sh, which only stage 1 reads; sourced by birq.sh, finetune.sh and recipes with a
# stage 1 of their own.

#   data_record write|check MADE OTHERS OPTION VALUE ...
#     MADE    what was made for training: a folder of data/, or a file
#     OTHERS  other folders of data/, for which only the option --set is compared
#     check compares the options given now; those that are not given may be any
data_record() {
    local action=$1 made=$2 others=$3 one args name value remedy
    shift 3
    local given=("$@") i
    # A dry run has made nothing.
    if [[ ${action} = write && " $* " =~ \ --dry(_run\ true|-run)\  ]]; then return 0; fi
    # shellcheck disable=SC2086
    for one in "${made}" ${others}; do
        # Users may have linked a directory of their own, to which nothing is written.
        if [ ! -e "${one}" ] || [ -L "${one}" ]; then continue; fi
        args=() remedy="leave this option out, or run stage 1 again (--stage 1)"
        for ((i = 0; i < ${#given[@]}; i++)); do
            name=${given[i]#--} name=${name//-/_} value=${given[i + 1]:-}
            if [[ ${value} =~ ^--[^\ ]*$ ]]; then value=; else i=$((i + 1)); fi
            case "${name}" in
                # These do not change the data, or the name of the set tells them.
                need|sets|dry_run|lm|list|nj|resample|fs|subset) ;;
                set) if [ "$(basename "${value}")" = "$(basename "${one}")" ]; then
                         args+=(--option "${name}=${value}")
                         remedy="give the path as in stage 1 (--train_set, --valid_set,"
                         remedy+=" --test_sets), or run stage 1 again (--stage 1)"
                     fi ;;
                *) if [ "${one}" = "${made}" ]; then args+=(--option "${name}=${value}"); fi ;;
            esac
        done
        if [ "${action}${one}" = "write${made}" ] || [ ${#args[@]} -gt 0 ]; then
            python3 -m espnet2_birq.bin.stamp "${action}" "${one}" "${args[@]}" \
                --remedy "${remedy}"
        fi
    done
}

# Moves averaged models away if further epochs are to follow: a training that goes on, and is
# then stopped, would leave those of before as its result.
set_averages_aside() {  # set_averages_aside EXP MAX_EPOCH
    local last old=()
    last=$(readlink "$1/latest.pth") || return 0  # the link goes to Nepoch.pth
    mapfile -t old < <(compgen -G "$1/*.ave*.pth")
    [ "${last%epoch.pth}" -lt "$2" ] && [ ${#old[@]} -gt 0 ] || return 0
    mkdir -p "$1/averages_before"
    mv "${old[@]}" "$1/averages_before"
    echo "$1: goes on after epoch ${last%epoch.pth}; until epoch $2," \
        "its averaged models are in $1/averages_before"
}

# Refuses to write anew what a running training reads: one of EXPDIR, or a joint training of
# ../asr1, whose folder is locked and whose configuration names it.
not_in_use() {  # not_in_use STAGE TRAINING_STAGE DIR...: STAGE writes to DIR
    local stage=$1 training=$2 lock dir
    shift 2
    for lock in "${expdir}"/*/.lock{,_finetune} ../asr1/exp/*/.lock_finetune; do
        [ -e "${lock}" ] || continue
        ! flock_or_none "${lock}" true || continue
        for dir; do
            ! grep -qsF -e " ${dir}/" -e "../${PWD##*/}/${dir}/" \
                "${lock%/*}/config.yaml" || fail "${dir}: the training" \
                "in ${lock%/*} reads files in it, which stage ${stage} would write anew:" \
                "wait until it has ended, or begin with --stage ${training}"
        done
    done
}

# Locks without waiting; fails only if another process has the lock. On a file system without
# locks, flock has another status: nobody else may be at work there.
flock_or_none() {  # flock_or_none FILE COMMAND | DESCRIPTOR
    local status=0
    flock --nonblock --conflict-exit-code 75 "$@" || status=$?
    [ "${status}" -ne 75 ]
}

# Two commands that prepare data in one folder would mix their files.
begin_preparing() {  # begin_preparing DIR TRAINING_STAGE: fails if another command does so
    mkdir -p "$1"
    exec {preparing}>> "$1/.lock"
    flock_or_none "${preparing}" || fail "$1: another command is preparing data here; wait" \
        "until its training begins, and begin with --stage $2"
}
end_preparing() { exec {preparing}>&-; }

no_spaces() {  # no_spaces NAME...: refuses options that ESPnet's scripts would split
    local name
    for name; do
        [[ ! ${!name} =~ [[:space:]] ]] || fail "--${name} '${!name}': has a space in it," \
            "which ESPnet's scripts do not support"
    done
}

whole_numbers() {  # whole_numbers LEAST NAME...: refuses other values, and those below LEAST
    local least=$1 name
    shift
    for name; do
        [[ ${!name} =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "${!name}" -ge "${least}" ] ||
            fail "--${name} '${!name}': give a whole number of ${least} or more"
    done
}

check_stages() {  # check_stages LAST: refuses --stage and --stop_stage that run nothing
    whole_numbers 0 stage stop_stage
    [ "${stage}" -le "$1" ] || fail "--stage ${stage}: there are stages 1 to $1"
    [ "${stage}" -le "${stop_stage}" ] ||
        fail "--stage ${stage} --stop_stage ${stop_stage}: no stage is between them"
}

set_name() {  # set_name OPTION DIR: prints the name of a set given by its path, the last part
    local name
    # Without realpath, the name of DIR/. would be a folder of all sets.
    name=$(basename "$(realpath -ms "$2")")
    [[ ${name} =~ ^[[:alnum:]._-]+$ ]] || fail "--$1: '${name}' cannot be the name of a" \
        "set: give it by a link whose name has letters, digits, . _ - only"
    echo "${name}"
}

need_gpus() {  # fails unless there are --ngpu GPUs here, or a batch system runs the jobs
    local found
    [ "${ngpu}" -gt 0 ] || return 0
    . ./cmd.sh
    [ "${cuda_cmd%% *}" = run.pl ] || return 0
    found=$(python3 -c "import torch; print(torch.cuda.device_count())")
    [ "${found}" -ge "${ngpu}" ] || fail "--ngpu ${ngpu}: PyTorch finds ${found} GPUs here:" \
        "give --ngpu ${found}$([ "${found}" -gt 0 ] || echo ", which trains on the CPU")," \
        "or run this in a job with GPUs, or with CMD_BACKEND=slurm (docs/tutorial_cluster.md)"
}

check_speed_factors() {  # check_speed_factors FACTORS: ESPnet takes what is no number for 1.0
    local factor
    for factor in $1; do
        [[ ${factor} =~ ^[0-9]*[.]?[0-9]+$ ]] ||
            fail "--speed_perturb_factors '$1': give numbers, separated by spaces"
    done
}
