#!/usr/bin/env bash
# Prepares LibriSpeech parts as data/{train,valid,test,test_other}, with disjoint speakers.
#   --librispeech DIR   OpenSLR 31's mini LibriSpeech, or any parts of the full corpus, in
#                       the original layout (default: downloads)
#   --train PART,PART   parts for training (default: train-clean-5)
#   --dev PART          part whose last speakers are held out, half for valid and half for
#                       test; its other speakers are added to train (default: dev-clean-2)
#   --held_out N        number of speakers to hold out (default: 4)
#   --test_other PART   second test set (default: none)
#   --resample true     accept audio at other sampling rates than 16 kHz (default: false)
set -e
set -u
set -o pipefail
librispeech=../ssl1/downloads train=train-clean-5 dev=dev-clean-2 held_out=4 test_other=
resample=false
. ./path.sh
. utils/parse_options.sh
[ $# -eq 0 ] || { echo "$0: error: '$1' is no option; folders must not have spaces in their" \
    "names: give a link without" >&2; exit 1; }

for name in valid test ${test_other:+test_other}; do
    [ -L "data/${name}" ] || [ ! -e "data/${name}" ] || { echo "$0: error: data/${name}: not" \
        "of this preparation, which makes a link there; move it away" >&2; exit 1; }
done
set_of() { echo "${1//-/_}"; }  # train-clean-5 -> train_clean_5
join=
for part in ${train//,/ }; do join+="$(set_of "${part}")+"; done
# shellcheck disable=SC2086
python3 -m espnet2_birq.bin.prepare_librispeech --librispeech "${librispeech}" \
    --dest data --parts ${train//,/ } "${dev}" ${test_other} \
    --nj "$(../../../local/cores)" --resample "${resample}" \
    --split "${dev}:${held_out}" --combine "train=${join}$(set_of "${dev}")_train"
ln -sfnT "$(set_of "${dev}")_valid" data/valid
ln -sfnT "$(set_of "${dev}")_test" data/test
if [ -n "${test_other}" ]; then
    ln -sfnT "$(set_of "${test_other}")" data/test_other
elif [ -L data/test_other ]; then
    rm data/test_other  # of an earlier call
fi
