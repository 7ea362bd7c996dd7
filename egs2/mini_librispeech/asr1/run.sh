#!/usr/bin/env bash
# Fine-tunes on a few hours of LibriSpeech, decodes and scores.
#   ./run.sh --method birq      birq, best_rq, or scratch (the same configuration without
#                               pretraining)
#   --protocol paper            CTC on characters, 30 epochs, greedy decoding (default)
#   --protocol quick            the same with 300 updates: minutes on a CPU
#   --protocol strong           CTC and a decoder on 300 BPE units, beam search
#   --protocol joint            CTC and BEST-RQ in one training, on the labelled set and all
#                               speech of ../ssl1 (after its stage 6); use --method scratch
#   --self_train 2 --unlabelled_set train
#                               added to an earlier command: rounds of self-training on
#                               dump/raw/train; see self_train.sh --help
# --librispeech, --train, --dev, --held_out, --test_other go to local/data.sh (with the same
# values as for ../ssl1/run.sh), all other options to finetune.sh and asr.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq protocol=paper test_other= self_train=0
sort_options "method protocol test_other self_train" \
    "librispeech train dev held_out test_other resample" ./finetune.sh "$@"
pretrained_model "${method}" "ssl_train_${method}_raw"
protocol_options "${protocol}" 300 paper quick strong joint
finetuning_script "${self_train}"
"${script[@]}" --asr_tag "${method}${suffix}" --ssl_model "${ssl_model}" \
    --ngpu 0 --nj "$(../../../local/cores)" --inference_nj "$(../../../local/cores)" \
    --lang en --use_lm false --max_wav_duration 30 \
    --train_set train --valid_set valid --test_sets "test ${test_other:+test_other}" \
    "${protocol_opts[@]}" --local_data_opts "${data_opts[*]}" "${opts[@]}"
