#!/usr/bin/env bash
# Imports your Kaldi data directories as data/NAME, where NAME is the last part of their path.
#   --set DIR         a directory with wav.scp and text, and utt2spk if speakers are known;
#                     or a set formatted by ESPnet, or by the recipe yodas with --text, whose
#                     audio is then formatted again. May be repeated
#   --fs RATE         sampling rate of the audio (default: 16k)
#   --resample true   accept audio at other sampling rates (default: false)
set -e
set -u
set -o pipefail
. ../../../local/run_options.sh
. ../../../local/data_record.sh
fail() { echo "$0: error: $*" >&2; exit 1; }
resample=false fs=16k
sort_options "resample fs" "set" "" "$@"
. ./path.sh
given=" " made=()
for ((i = 1; i < ${#data_opts[@]}; i += 2)); do
    source=${data_opts[i]}
    # A set may be used in several ways, for instance for validation and as a test set.
    [[ ${given} != *" ${source} "* ]] || continue
    given+="${source} "
    name=$(set_name set "${source}")
    made+=("data/${name}")
    python3 -m espnet2_birq.bin.adopt_data --transcripts "${source}" "data/${name}"
done
[ ${#made[@]} -eq 0 ] || python3 -m espnet2_birq.bin.check_data --full \
    --nj "$(../../../local/cores)" --fs "${fs}" --resample "${resample}" "${made[@]}"
