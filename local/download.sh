#!/usr/bin/env bash
# Downloads the files of a list, one after the other. What is there already is not
# fetched again, what is there in part is continued, and a file gets its own name only
# when it is complete and its checksum is right.
#
# Usage: local/download.sh LIST DEST
#   LIST  a file of lines `MD5 URL PATH`: PATH is the file's place in DEST, MD5 is - if
#         no checksum is published
#   DEST  folder
set -euo pipefail
fail() { echo "download.sh: error: $*" >&2; exit 1; }
case "${1:-}" in
    --help|-h|"") sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ $# -eq 2 ] || fail "wants LIST and DEST, see --help"
list=$1 dest=$2
[ -s "${list}" ] || fail "${list}: no such list, or it is empty"
command -v wget >/dev/null || fail "downloads want the program wget (package wget)"

right() {  # right FILE MD5
    [ "$2" = - ] || [ "$(md5sum < "$1" | cut -d' ' -f1)" = "$2" ]
}

total=$(grep -c . "${list}") number=0
while read -r md5 url path; do
    number=$((number + 1)) file=${dest}/${path}
    if [ -s "${file}" ]; then continue; fi
    echo "download.sh: ${number} of ${total}: ${url}" >&2
    mkdir -p "$(dirname "${file}")"
    wget --continue --no-verbose --show-progress --tries=10 --timeout=60 \
        --output-document="${file}.part" "${url}" </dev/null ||
        fail "${url}: not downloaded; repeat the command to continue where it stopped"
    if ! right "${file}.part" "${md5}"; then
        rm "${file}.part"
        fail "${url}: its checksum is not ${md5}, the file was removed; repeat the command"
    fi
    mv "${file}.part" "${file}"
done < "${list}"
