#!/usr/bin/env bash
# Downloads AMI's manual annotation 1.6.2 and the recordings of a microphone. Repeat the
# command to resume. ihm is about 46 GB, sdm1 12 GB, mdm8 92 GB.
#
# Usage: local/download.sh MIC [DEST]
#   MIC   ihm, sdm1, mdm8 or mix
#   DEST  folder (default: ../ssl1/downloads); recordings go to DEST/amicorpus, the annotation
#         to DEST/annotations
set -e
set -u
set -o pipefail
fail() { echo "download.sh: error: $*" >&2; exit 1; }
case "${1:-}" in
    --help|-h|"") sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
mic=$1 dest=${2:-../ssl1/downloads}
. ./path.sh
fetch=../../../local/download.sh
mkdir -p "${dest}"
name=ami_public_manual_1.6.2.zip
echo "- http://groups.inf.ed.ac.uk/ami/AMICorpusAnnotations/${name} ${name}" \
    > "${dest}/annotations.list"
"${fetch}" "${dest}/annotations.list" "${dest}"
if [ ! -d "${dest}/annotations" ]; then
    # Unpack to a temporary folder, so that annotations/ is always complete.
    rm -rf "${dest}/annotations.part"
    python3 -m zipfile -e "${dest}/${name}" "${dest}/annotations.part" 2> /dev/null ||
        fail "${dest}/${name}: cannot be unpacked; free some space or delete it, and repeat"
    mv "${dest}/annotations.part" "${dest}/annotations"
fi
python3 -m espnet2_birq.bin.list_ami --annotations "${dest}/annotations" \
    --mic "${mic}" > "${dest}/${mic}.list"
"${fetch}" "${dest}/${mic}.list" "${dest}"
