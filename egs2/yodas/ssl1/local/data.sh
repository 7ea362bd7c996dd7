#!/usr/bin/env bash
# YODAS -> dump/raw/<name> and dump/raw/<name>_valid, which need no further stage, and
# dump/raw/shards, the archives, which all sets share.
#   --yodas DIR          a release on disk, or
#   --hub yodas|yodas2   one of the Hugging Face hub
#   --set_name NAME      name of the set (default: en_5000h)
#   --lang "LANG ..."    languages, subsets (en000) or shards (en000/00000001) (default: en)
#   --hours N            hours of each language (default: 5000; all: what there is)
#   --valid_hours N      hours for validation, of other videos (default: 1)
#   --seed N             of the choice (default: 0)
#   --manifest FILE      repeat another set's manifest.jsonl, whatever --lang and --hours
#   --prepare_opts "..." further options of espnet2_birq.bin.prepare_yodas
#   --nj N               how many shards at once (default: 4)
set -e
set -u
set -o pipefail
yodas= hub= set_name=en_5000h lang=en hours=5000 valid_hours= seed= manifest= prepare_opts= nj=4
. ./path.sh
. utils/parse_options.sh

opts=(--dest dump/raw --name "${set_name}" --nj "${nj}")
if [ -n "${yodas}" ]; then opts+=(--yodas "${yodas}"); fi
if [ -n "${hub}" ]; then opts+=(--hub "${hub}"); fi
if [ -n "${manifest}" ]; then
    opts+=(--manifest "${manifest}")
else
    # shellcheck disable=SC2206
    opts+=(--parts ${lang})
    if [ "${hours}" != all ]; then opts+=(--hours "${hours}"); fi
fi
if [ -n "${valid_hours}" ]; then opts+=(--valid-hours "${valid_hours}"); fi
if [ -n "${seed}" ]; then opts+=(--seed "${seed}"); fi
# shellcheck disable=SC2086
python3 -m espnet2_birq.bin.prepare_yodas "${opts[@]}" ${prepare_opts}
