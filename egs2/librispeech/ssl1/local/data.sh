#!/usr/bin/env bash
# Prepares LibriSpeech as data/<set>, with ESPnet's names: train_clean_100, train_clean_360,
# train_other_500, train_960, dev_clean, dev_other, dev, test_clean, test_other. train_960 and
# dev are made if the parts for them are there. The summary lists parts that are missing, and
# sets that are partial.
#   --librispeech DIR   folder of the corpus (default: download it to ../ssl1/downloads,
#                       60 GB, and as much again when unpacked)
#   --parts PART,PART   use (and download) only these: train-clean-100,dev-clean,...
#                       (default: all existing parts, or all seven for a download)
#   --lm true           also download the official 4-gram to ../ssl1/downloads/
#                       4-gram.arpa.gz, for asr1/run.sh --decode_lm
#   --need SET,SET      fail if one of these would not be made, or be partial; set by run.sh
#   --subset SET:H      also make SET_Hh, H hours of the set, balanced over readers
#   --resample true     accept audio at other sampling rates than 16 kHz (default: false)
#   --skip_bad true     skip bad audio files and list them, and accept sets that are
#                       partial, as of an excerpt of the corpus (default: false)
#   --dry_run true      show what would be downloaded, check everything, write nothing
#   --list FILE         URLs and checksums, see local/download.sh
set -e
set -u
set -o pipefail
here=$(dirname "$(readlink -f "$0")")
librispeech= parts= lm=false need= subset= resample=false skip_bad=false dry_run=false
list=${here}/openslr.txt
# shellcheck disable=SC2034  # for parse_options.sh
help_message=$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")
. ./path.sh
. utils/parse_options.sh
[ $# -eq 0 ] || { echo "$0: error: '$1' is no option; folders must not have spaces in their" \
    "names: give a link without" >&2; exit 1; }
downloads=../ssl1/downloads

_dry_run=
if "${dry_run}"; then _dry_run=--dry-run; fi
fetch() {
    # shellcheck disable=SC2086
    "${here}/download.sh" ${_dry_run} --list "${list}" "${downloads}" "$@"
}
if "${lm}"; then fetch 4-gram; fi
if [ -z "${librispeech}" ]; then
    _all=train-clean-100,train-clean-360,train-other-500
    _all+=,dev-clean,dev-other,test-clean,test-other
    _parts=${parts:-${_all}}
    # shellcheck disable=SC2086
    fetch ${_parts//,/ }
    librispeech=${downloads}
    if "${dry_run}" && [ ! -d "${downloads}/LibriSpeech" ]; then exit 0; fi
fi

_opts=
if [ -n "${parts}" ]; then _opts+="--parts ${parts//,/ } "; fi
if [ -n "${need}" ]; then _opts+="--need ${need//,/ } "; fi
if "${skip_bad}"; then _opts+="--skip_bad "; fi
# shellcheck disable=SC2086
python3 -m espnet2_birq.bin.prepare_librispeech --librispeech "${librispeech}" \
    --dest data --nj "$(../../../local/cores)" --resample "${resample}" ${_opts} ${_dry_run}
if "${dry_run}"; then exit 0; fi
if [ -n "${subset}" ]; then
    _set=${subset%:*} _hours=${subset##*:}
    python3 -m espnet2_birq.bin.subset_data --hours "${_hours}" \
        --nj "$(../../../local/cores)" "data/${_set}" "data/${_set}_${_hours}h"
fi
