#!/usr/bin/env bash
# Fine-tunes on AMI's training meetings, decodes and scores dev and eval.
#   ./run.sh --method birq --mic ihm      birq, best_rq, or scratch (the same configuration
#                                         without pretraining)
#   --protocol paper                      CTC on characters, 30 epochs, greedy (default)
#   --protocol strong                     CTC and a decoder on 100 BPE units, beam search
#   ./run.sh --ssl_model FILE --asr_tag yodas --mic ihm     another pretrained encoder
# --mic (ihm, sdm1, mdm8, mix), --ami, --annotations, --partition, --beamformed, --skip_bad,
# --resample go to local/data.sh (with the same values as for ../ssl1/run.sh), all other
# options to finetune.sh and asr.sh. Not run at full size yet.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq protocol=paper mic=ihm ssl_model= asr_tag=
sort_options "method protocol mic ssl_model asr_tag" \
    "mic ami annotations partition beamformed skip_bad resample" ./finetune.sh "$@"
[ -n "${ssl_model}" ] || pretrained_model "${method}" "${mic}/ssl_${method}"
protocol_options "${protocol}" 100 paper strong
./finetune.sh --asr_tag "${asr_tag:-${method}${suffix}}" --ssl_model "${ssl_model}" \
    --ngpu 1 --nj "$(../../../local/cores)" --inference_nj "$(../../../local/cores)" \
    --expdir "exp/${mic}" --lang en --use_lm false --max_wav_duration 20 \
    --train_set "${mic}_train" --valid_set "${mic}_dev" \
    --test_sets "${mic}_dev ${mic}_eval" \
    "${protocol_opts[@]}" --local_data_opts "${data_opts[*]}" "${opts[@]}"
