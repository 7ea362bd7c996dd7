#!/usr/bin/env bash
# Prepares AMI as data/<mic>_{train,dev,eval}, as in ESPnet's recipe.
#   --mic MIC           ihm, sdm1, mdm8 or mix (default: ihm)
#   --sets SET,SET      some of train,dev,eval (default: all); set by ssl1/run.sh
#   --ami DIR           folder with amicorpus/ (default: ../ssl1/downloads, from
#                       local/download.sh)
#   --annotations DIR   folder of the annotation (default: annotations/ in the folder --ami)
#   --partition NAME    full-corpus-asr, or a folder of lists (default: full-corpus-asr)
#   --beamformed DIR    folder for beamformed recordings (mdm8); missing ones are made
#                       (default: ../ssl1/downloads/beamformed)
#   --resample true     accept audio at other sampling rates than 16 kHz (default: false)
#   --skip_bad true     skip and list what is not in the audio: bad and missing recordings,
#                       and what comes after the end of an excerpt (default: false)
#   --dry_run true      check everything, write nothing
set -e
set -u
set -o pipefail
mic=ihm ami=../ssl1/downloads annotations= partition=full-corpus-asr resample=false
sets=train,dev,eval skip_bad=false dry_run=false
beamformed=../ssl1/downloads/beamformed
# shellcheck disable=SC2034  # for parse_options.sh
help_message=$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")
. ./path.sh
. utils/parse_options.sh
[ $# -eq 0 ] || { echo "$0: error: '$1' is no option; folders must not have spaces in their" \
    "names: give a link without" >&2; exit 1; }

audio=${ami} _opts=() _dry_run=()
if "${skip_bad}"; then _opts+=(--skip_bad); fi
if "${dry_run}"; then _dry_run+=(--dry_run); fi
if [ "${mic}" = mdm8 ]; then
    python3 -m espnet2_birq.bin.beamform_ami --audio "${ami}" --dest "${beamformed}" \
        --nj "$(../../../local/cores)" "${_dry_run[@]}"
    audio=${beamformed}
    if "${dry_run}"; then _opts+=(--annotations_only); fi  # nothing is beamformed yet
fi
python3 -m espnet2_birq.bin.prepare_ami --annotations "${annotations:-${ami}/annotations}" \
    --audio "${audio}" --mic "${mic}" --partition "${partition}" --sets "${sets}" \
    --nj "$(../../../local/cores)" --resample "${resample}" "${_opts[@]}" "${_dry_run[@]}" data
