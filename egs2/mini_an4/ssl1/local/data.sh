#!/usr/bin/env bash
# The eight AN4 utterances that ship with ESPnet -> data/{train_nodev,train_dev,test}
set -e
set -u
set -o pipefail
. ./path.sh
python3 -m espnet2_birq.bin.prepare_an4 --dest data --downloads downloads \
    --tarball "${MAIN_ROOT}/tools/espnet/egs2/mini_an4/asr1/downloads.tar.gz"
