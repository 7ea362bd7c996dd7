#!/usr/bin/env bash
# Prepares YODAS as dump/raw/<name> and dump/raw/<name>_valid, ready for training.
# The archives in dump/raw/shards are shared by all sets.
#   --yodas DIR          release on disk; or
#   --hub yodas|yodas2   release on the Hugging Face hub
#   --set_name NAME      name of the set (default: en_5000h)
#   --lang "LANG ..."    languages, subsets (en000) or shards (en000/00000001) (default: en)
#   --hours N            hours per language, or all (default: 5000)
#   --valid_hours N      hours for validation, from other videos (default: 1)
#   --seed N             random seed of the selection (default: 0)
#   --manifest FILE      reproduce the set of a manifest.jsonl; ignores --lang and --hours
#   --prepare_opts "..." further options of espnet2_birq.bin.prepare_yodas
#   --nj N               number of shards to prepare in parallel (default: 4)
set -e
set -u
set -o pipefail
yodas= hub= set_name=en_5000h lang=en hours=5000 valid_hours= seed= manifest= prepare_opts= nj=4
. ./path.sh
. utils/parse_options.sh
[ $# -eq 0 ] || { echo "$0: error: '$1' is no option; quote values of several words" >&2; exit 1; }

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
