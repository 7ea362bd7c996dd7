#!/usr/bin/env bash
# Pretrains on the 960 hours of LibriSpeech, with four GPUs.
#   ./run.sh --method birq      or best_rq; birq_stop_gradient (BiRQ without its gradient
#                               through the labels); birq_paper (as published)
#   ./run.sh --method birq_c2   birq_c1, birq_c2, best_rq_c1 or best_rq_c2: the paper's
#                               encoders (conf/tuning), which are not in ESPnet; with the
#                               paper's objectives, whose labels may collapse
#   ./run.sh --librispeech /corpora                uses an existing copy of the corpus
#   ./run.sh --librispeech /corpora --train_set train_clean_100 --valid_set dev_clean
#                               uses only a part of the corpus
#   ./run.sh --ngpu 1 --ssl_args "--batch_bins 11200000 --accum_grad 4"
#                               the same batch on one GPU
# --librispeech, --parts, --lm, --skip_bad, --resample, --dry_run, --list go to
# local/data.sh (see its --help), all other options (--stage, --ngpu, ...) to
# birq.sh.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq train_set=train_960 valid_set=dev resample=false dry_run=false
sort_options "method train_set valid_set resample dry_run" \
    "librispeech parts lm need subset skip_bad resample dry_run list" ./birq.sh "$@"
case "${method}" in
    *_c[12]) train_config=conf/tuning/train_${method}.yaml ;;
    *) train_config=conf/train_${method}.yaml ;;
esac
if "${dry_run}"; then opts+=(--stage 1 --stop_stage 1); fi
./birq.sh --train_set "${train_set}" --valid_set "${valid_set}" --ngpu 4 \
    --nj "$(../../../local/cores)" --train_config "${train_config}" \
    --resample "${resample}" \
    --local_data_opts "--need ${train_set},${valid_set} ${data_opts[*]}" "${opts[@]}"
