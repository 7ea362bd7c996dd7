#!/usr/bin/env bash
# Prepares ESPnet's eight AN4 utterances as data/{train_nodev,train_dev,test}.
set -e
set -u
set -o pipefail
. ./path.sh
[ $# -eq 0 ] || { echo "$0: error: '$1': there are no options; leave it out" >&2; exit 1; }
python3 -m espnet2_birq.bin.prepare_an4 --dest data --downloads downloads \
    --tarball "${MAIN_ROOT}/tools/espnet/egs2/mini_an4/asr1/downloads.tar.gz"
