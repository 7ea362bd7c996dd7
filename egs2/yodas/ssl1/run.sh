#!/usr/bin/env bash
# Pretrains on YODAS, by default on 5,000 hours of English.
#   ./run.sh --yodas /corpora/yodas --ngpu 8               a copy on disk of either release
#   ./run.sh --hub yodas --ngpu 8                          from the Hugging Face hub
#   ./run.sh --yodas DIR --lang "de en fr" --hours 500     at most 500 hours per language,
#                             mixed by temperature (conf/train_birq_multilingual.yaml)
#   ./run.sh --yodas DIR --train_config ../../../conf/tuning/train_birq_c3.yaml
#                                       the paper's encoder and objectives, whose labels
#                                       may collapse (docs/methods.md); or conf/
#                                       train_birq_stop_gradient.yaml: without BiRQ's
#                                       gradient through the labels
# --yodas, --hub, --lang, --hours, --valid_hours, --seed, --manifest, --prepare_opts go to
# local/data.sh, which is stage 1 and does the whole data preparation. --set_name names the
# set (default: from language and hours; required with --manifest); its experiments are in
# exp/<set name>. Limits of duration are --prepare_opts "--min_duration 1 --max_duration 20".
# All other options (--stage, ...) go to birq.sh. With a single language, --num_splits_ssl 8
# reduces the trainer's memory.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
. "$(dirname "$0")/../../../local/data_record.sh"
fail() { echo "run.sh: error: $*" >&2; exit 1; }
lang=en hours=5000 valid_hours=1 set_name= manifest= stage=1 stop_stage=10000 dry_run=false ngpu=1
nj=$("$(dirname "$0")/../../../local/cores")
sort_options "lang hours valid_hours set_name manifest stage stop_stage nj dry_run ngpu" \
    "yodas hub lang hours valid_hours seed manifest prepare_opts nj" ./birq.sh "$@"
whole_numbers 0 ngpu
check_stages 9
whole_numbers 1 nj
for ((i = 0; i < ${#opts[@]}; i += 2)); do
    case "${opts[i]//-/_}" in
        __min_wav_duration|__max_wav_duration) fail "${opts[i]}: stage 1 filters by" \
            "duration; give --prepare_opts '--min_duration N --max_duration N' (seconds)" ;;
        __audio_format) fail "${opts[i]}: stage 1 writes the audio; give --prepare_opts" \
            "'--audio_format wav.ark'" ;;
        __resample|__speed_perturb_factors|__dumpdir|__fs)
            fail "${opts[i]}: has no effect here; leave it out" ;;
    esac
done
if [ "${stage}" -le 1 ] && [ "${stop_stage}" -gt 1 ]; then
    awk -v hours="${valid_hours}" 'BEGIN { exit !(hours + 0 > 0) }' || fail "--valid_hours" \
        "'${valid_hours}': give more than 0, training needs a validation set"
    ! head -n 1 "${manifest:-/dev/null}" 2> /dev/null |
        grep -qE '"valid_hours": 0(\.0*)?[,}]' || fail "--manifest ${manifest}: its set was" \
        "made with valid_hours 0, training needs a validation set: give another"
fi
if [ -n "${manifest}" ]; then
    [ -n "${set_name}" ] || fail "--manifest needs --set_name, the name of the set"
    [[ " ${data_opts[*]} " != *" --lang "* && " ${data_opts[*]} " != *" --hours "* ]] ||
        fail "--manifest has languages and hours; leave out --lang and --hours"
fi
if [ -z "${set_name}" ]; then set_name=${lang// /_}_${hours}h set_name=${set_name//\//-}; fi
set=dump/raw/${set_name}
pretrain() {  # pretrain DRY_RUN
    # Once the set is made, it tells whether it has several languages.
    local config=conf/train_birq.yaml
    if [ -e "${set}/wav.scp" ]; then
        if [ -e "${set}/category2utt" ]; then config=conf/train_birq_multilingual.yaml; fi
    elif [[ ${lang} == *" "* ]]; then
        config=conf/train_birq_multilingual.yaml
    fi
    # The output of stages 2 to 4 is made by local/data.sh.
    ./birq.sh --skip_data_prep true --stage "${stage}" --stop_stage "${stop_stage}" \
        --dry_run "$1" --train_set "${set_name}" --valid_set "${set_name}_valid" \
        --audio_format flac.ark --expdir "exp/${set_name}" --nj "${nj}" --ngpu "${ngpu}" \
        --train_config "${config}" "${opts[@]}"
}
if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    prepare=(local/data.sh --set_name "${set_name}" "${data_opts[@]}")
    if "${dry_run}"; then
        echo "stage 1: ${prepare[*]}"
    else
        # Options and GPUs are checked before days of preparation.
        pretrain true > /dev/null
        if [ "${stop_stage}" -ge 7 ] && [[ " ${opts[*]} " != *" --skip_train true "* ]]; then
            (. ./path.sh && need_gpus)
        fi
        "${prepare[@]}"
        (. ./path.sh && data_record write "${set}/manifest.jsonl" "" "${data_opts[@]}")
    fi
else
    (. ./path.sh && data_record check "${set}/manifest.jsonl" "" "${data_opts[@]}")
fi
pretrain "${dry_run}"
