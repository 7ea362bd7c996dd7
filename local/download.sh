#!/usr/bin/env bash
# Downloads the files of a list, one after the other. Existing files are not downloaded
# again, and partial downloads are resumed. A file gets its final name only when it is
# complete and its checksum is correct.
#
# Usage: local/download.sh [--dry-run] LIST DEST
#   --dry-run  only show what would be downloaded
#   LIST       file of lines `CHECKSUM URL PATH`. PATH is relative to DEST. CHECKSUM is an
#              MD5 (32 digits) or SHA-256 (64), or - if none is published; a .gz file is then
#              only tested for completeness. Lines that begin with # are comments.
#   DEST       folder
set -euo pipefail
fail() { echo "download.sh: error: $*" >&2; exit 1; }
dry_run=false
if [ "${1:-}" = --dry-run ]; then dry_run=true; shift; fi
case "${1:-}" in
    --help|-h|"") sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ $# -eq 2 ] || fail "LIST and DEST are required, see --help"
list=$1 dest=$2
[ -s "${list}" ] || fail "${list}: no such list, or it is empty"
"${dry_run}" || command -v wget >/dev/null ||
    fail "downloads need the program wget (package wget)"

right() {  # right FILE CHECKSUM NAME
    case "${#2} $3" in
        "32 "*) [ "$(md5sum < "$1" | cut -d' ' -f1)" = "$2" ] ;;
        "64 "*) [ "$(sha256sum < "$1" | cut -d' ' -f1)" = "$2" ] ;;
        *.gz|*.tgz) gzip --test < "$1" ;;
    esac
}

total=$(grep -c '^[^#]' "${list}") || fail "${list}: names no file, it has comments only"
number=0 fetched=0
while read -r sum url path || [ -n "${sum}" ]; do
    case "${sum}" in
        ""|"#"*) continue ;;
        -) ;;
        *) [[ ${sum} =~ ^([0-9a-f]{32}|[0-9a-f]{64})$ ]] || fail "${list}: ${sum} is no" \
            "checksum: give 32 or 64 hexadecimal digits, or - if there is none" ;;
    esac
    number=$((number + 1)) file=${dest}/${path}
    if [ -s "${file}" ]; then continue; fi
    fetched=$((fetched + 1))
    echo "download.sh: ${number} of ${total}: ${url}" >&2
    if "${dry_run}"; then continue; fi
    mkdir -p "$(dirname "${file}")"
    wget --continue --no-verbose --show-progress --tries=10 --timeout=60 \
        --output-document="${file}.part" "${url}" </dev/null ||
        fail "${url}: not downloaded; repeat the command to continue where it stopped"
    if ! right "${file}.part" "${sum}" "${path}"; then
        rm "${file}.part"
        fail "${url}: not what its checksum (${sum}) or its format says, the file was" \
            "removed; repeat the command"
    fi
    mv "${file}.part" "${file}"
done < "${list}"
verb=fetched
if "${dry_run}"; then verb="to fetch"; fi
echo "download.sh: ${dest}: ${fetched} ${verb}, $((number - fetched)) of ${total} there" >&2
