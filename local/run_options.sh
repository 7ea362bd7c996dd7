# shellcheck shell=bash
# Sorts command-line options, and sets variables that follow from them; sourced by the recipes'
# run.sh, finetune.sh, self_train.sh and decode_ctc.sh.

# A batch system sends SIGUSR1 to all processes of a job. Only the training reacts to it: it
# saves its state and exits with 85 (docs/faults.md).
trap '' USR1

#   sort_options OWN DATA SCRIPT "$@"
#     OWN     names of options that are stored in variables of the same name
#     DATA    names (regular expressions) of options that are collected in data_opts, for
#             local/data.sh; a name may also be in OWN. If there are any, those in the value of
#             --local_data_opts count as given by themselves
#     SCRIPT  script for all other options, which are collected in opts. --help prints the
#             comment at the head of the caller, then the help of SCRIPT, if it is not "".
sort_options() {
    local own=" ${1//[[:space:]]/ } " data="^(${2// /|})\$" script=$3 name taken words
    shift 3
    data_opts=() opts=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --help|-h)
                sed -n '2,/^[^#]/{/^# shellcheck/d; s/^# \{0,1\}//p}' "$0"
                cd "$(dirname "$0")" || exit
                [ -z "${script}" ] || exec "${script}" --help
                exit 0 ;;
            --*=*) echo "$0: error: $1: give '${1%%=*} ${1#*=}', without =" >&2; exit 1 ;;
            --*) ;;
            *) echo "$0: error: no positional arguments are taken, got '$1'" >&2; exit 1 ;;
        esac
        [ $# -ge 2 ] || { echo "$0: error: option $1 needs a value" >&2; exit 1; }
        name=${1#--} name=${name//-/_} taken=false
        if [[ ${own} == *" ${name} "* ]]; then
            # Scripts run such a variable as a command.
            [[ ! ${!name-} =~ ^(true|false)$ || $2 =~ ^(true|false)$ ]] ||
                { echo "$0: error: $1 '$2': give true or false" >&2; exit 1; }
            printf -v "${name}" %s "$2"
            taken=true
        fi
        if [[ ${name} =~ ${data} ]]; then data_opts+=("$1" "$2"); taken=true; fi
        if [ "${taken}${name}" = falselocal_data_opts ] && [ "${data}" != '^()$' ]; then
            # Passed on, they would replace data_opts.
            read -r -a words <<< "$2"
            shift 2
            set -- "${words[@]}" "$@"
            continue
        fi
        "${taken}" || opts+=("$1" "$2")
        shift 2
    done
    [ -z "${script}" ] || [ -e "${script}" ] ||
        { echo "$0: error: run it in its folder: cd $(dirname "$0")" >&2; exit 1; }
}

# Sets protocol_opts to finetune.sh's options for a protocol, and suffix to the suffix of its
# experiments' names.
protocol_options() {  # protocol_options PROTOCOL NBPE KNOWN_PROTOCOL ...
    local protocol=$1 nbpe=$2
    shift 2
    [[ " $* " == *" ${protocol} "* ]] ||
        { echo "$0: error: --protocol ${protocol}: give one of $*" >&2; exit 1; }
    local ctc=(--token_type char --inference_config conf/decode_asr.yaml)
    # shellcheck disable=SC2034  # for the caller
    case "${protocol}" in
        paper) suffix= protocol_opts=(--asr_config conf/train_asr.yaml "${ctc[@]}") ;;
        quick) suffix=_quick
            protocol_opts=(--asr_config conf/train_asr_quick.yaml "${ctc[@]}") ;;
        joint) suffix=_joint
            protocol_opts=(--asr_config conf/train_asr_joint.yaml "${ctc[@]}") ;;
        strong) suffix=_strong protocol_opts=(--asr_config conf/train_asr_strong.yaml
            --token_type bpe --nbpe "${nbpe}"
            --inference_config conf/decode_asr_strong.yaml) ;;
    esac
}

# Sets config to the configuration for a size; small has no suffix.
sized_config() {  # sized_config NAME SIZE, e.g. train_birq base
    config=conf/$1.yaml
    if [ "$2" != small ]; then config=conf/$1_$2.yaml; fi
    [ -f "${config}" ] && [[ " small base large " == *" $2 "* ]] ||
        { echo "$0: error: --method ${1#train_} --size $2: no ${config}; there are small," \
            "base and large of birq and best_rq" >&2; exit 1; }
}

# Sets ssl_model to the model of an experiment in ../ssl1/exp, or to none for scratch.
pretrained_model() {  # pretrained_model METHOD EXPERIMENT
    ssl_model=none
    # shellcheck disable=SC2034  # for the caller
    if [ "$1" != scratch ]; then ssl_model=../ssl1/exp/$2/valid.total_count.ave.pth; fi
}

# Sets script to finetune.sh, or to self_train.sh unless ROUNDS is 0.
finetuning_script() {  # finetuning_script ROUNDS
    script=(./finetune.sh)
    if [ "$1" != 0 ]; then script=(./self_train.sh --self_train "$1"); fi
}

# Sets inference_asr_model, unless it is given, to the average that training leaves.
model_to_decode_with() {  # model_to_decode_with CONFIG
    if [ -z "${inference_asr_model}" ]; then
        inference_asr_model=$(python3 -m espnet2_birq.bin.finetune_options model "$1")
    fi
}

# Sets scored to the sets in dump/raw that asr.sh decodes and scores: the validation set
# without the length filter, from org/.
scored_sets() {
    local name
    scored=()
    for name in ${test_sets}; do
        if [ "${name}" = "${valid_set}" ]; then eval_valid_set=true; else scored+=("${name}"); fi
    done
    if "${eval_valid_set}"; then scored=("org/${valid_set}" "${scored[@]}"); fi
}
