#!/usr/bin/env bash
# Downloads parts of LibriSpeech and unpacks them to DEST/LibriSpeech/PART. Existing parts
# are left unchanged. Repeat the command to resume.
#
# Usage: local/download.sh [--dry-run] [--list FILE] DEST PART...
#   --dry-run    only show what would be done
#   --list FILE  URLs and checksums (default: openslr.txt next to this script; for a mirror,
#                give a copy with its URLs)
#   DEST         folder. The whole corpus needs 60 GB for the archives, which are kept and
#                may be deleted later, and as much again for the audio.
#   PART         train-clean-100, train-clean-360, train-other-500, dev-clean, dev-other,
#                test-clean, test-other; or 4-gram: DEST/4-gram.arpa.gz, the official
#                word language model
set -euo pipefail
fail() { echo "download.sh: error: $*" >&2; exit 1; }
case "${1:-}" in
    --help|-h|"") sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
here=$(dirname "$(readlink -f "$0")")
list=${here}/openslr.txt dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=--dry-run; shift; fi
if [ "${1:-}" = --list ]; then list=${2:-}; shift; shift || true; fi
[ $# -ge 2 ] || fail "DEST and PART are required, see --help"
[ -s "${list}" ] || fail "--list '${list}': no such list"
dest=$1
shift

wanted=$(mktemp)
trap 'rm -f "${wanted}"' EXIT
for part in "$@"; do
    grep -E "^[^#].* ${part//./\\.}\.(tar|arpa)\.gz$" "${list}" > "${wanted}" ||
        fail "${part}: not in ${list}; see --help"
    target=${dest}/LibriSpeech/${part}
    if [ -d "${target}" ]; then
        echo "download.sh: ${target} is there" >&2
        continue
    fi
    # shellcheck disable=SC2086
    "${here}/../../../../local/download.sh" ${dry_run} "${wanted}" "${dest}"
    if [ -n "${dry_run}" ] || [ "${part}" = 4-gram ]; then continue; fi

    # Unpack to a temporary folder, so that the part's folder is always complete.
    archive=${dest}/${part}.tar.gz aside=${dest}/.unpack.${part}
    echo "download.sh: unpacking ${archive}" >&2
    rm -rf "${aside}" && mkdir -p "${aside}" "${dest}/LibriSpeech"
    tar --no-same-owner -xzf "${archive}" -C "${aside}" ||
        fail "${archive}: cannot be unpacked; free some space or delete it, and repeat"
    [ -d "${aside}/LibriSpeech/${part}" ] || fail "${archive}: holds no LibriSpeech/${part}"
    find "${aside}/LibriSpeech" -maxdepth 1 -name '*.TXT' \
        -exec mv -t "${dest}/LibriSpeech" {} +
    mv "${aside}/LibriSpeech/${part}" "${target}"
    rm -r "${aside}"
done
