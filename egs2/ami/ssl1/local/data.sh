#!/usr/bin/env bash
# Prepares AMI as data/<mic>_{train,dev,eval}, as in ESPnet's recipe.
#   --mic MIC           ihm, sdm1, mdm8 or mix (default: ihm)
#   --ami DIR           folder with amicorpus/ (default: ../ssl1/downloads, from
#                       local/download.sh)
#   --annotations DIR   folder of the annotation (default: annotations/ in the folder --ami)
#   --partition NAME    full-corpus-asr, or a folder of lists (default: full-corpus-asr)
#   --beamformed DIR    folder for beamformed recordings (mdm8); missing ones are made
#                       (default: ../ssl1/downloads/beamformed)
#   --resample true     accept audio at other sampling rates than 16 kHz (default: false)
set -e
set -u
set -o pipefail
mic=ihm ami=../ssl1/downloads annotations= partition=full-corpus-asr resample=false
beamformed=../ssl1/downloads/beamformed
. ./path.sh
. utils/parse_options.sh
[ $# -eq 0 ] || { echo "$0: error: '$1' is no option; folders must not have spaces in their" \
    "names: give a link without" >&2; exit 1; }

audio=${ami}
if [ "${mic}" = mdm8 ]; then
    python3 -m espnet2_birq.bin.beamform_ami --audio "${ami}" --dest "${beamformed}" \
        --nj "$(../../../local/cores)"
    audio=${beamformed}
fi
python3 -m espnet2_birq.bin.prepare_ami --annotations "${annotations:-${ami}/annotations}" \
    --audio "${audio}" --mic "${mic}" --partition "${partition}" \
    --nj "$(../../../local/cores)" --resample "${resample}" data
