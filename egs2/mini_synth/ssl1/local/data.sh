#!/usr/bin/env bash
# Synthesises the corpus: data/pretrain without text, data/{train,valid,test} with text.
set -e
set -u
set -o pipefail
. ./path.sh
[ $# -eq 0 ] || { echo "$0: error: '$1': there are no options; leave it out" >&2; exit 1; }
audio=$(cd ../ssl1 && pwd)/downloads/audio
python3 -m espnet2_birq.bin.synthesize --dest data --audio "${audio}" \
    --nj "$(../../../local/cores)"
