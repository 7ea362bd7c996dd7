#!/usr/bin/env bash
# Pretrains on AMI's training meetings. First get the corpus: local/download.sh ihm
#   ./run.sh --method birq --mic ihm --ngpu 1      ihm, sdm1, mdm8 or mix
# --method is birq, best_rq or birq_stop_gradient (without the gradient through the labels).
# --mic, --ami, --annotations, --partition, --beamformed, --skip_bad, --resample, --dry_run
# go to local/data.sh (see its --help), all other options (--stage, --ngpu, ...) to
# birq.sh. Not run at full size yet.
set -e
set -u
set -o pipefail
. "$(dirname "$0")/../../../local/run_options.sh"
method=birq mic=ihm resample=false dry_run=false
sort_options "method mic resample dry_run" \
    "mic ami annotations partition beamformed skip_bad resample dry_run" ./birq.sh "$@"
if "${dry_run}"; then opts+=(--stage 1 --stop_stage 1); fi
./birq.sh --train_set "${mic}_train" --valid_set "${mic}_dev" --ngpu 1 \
    --nj "$(../../../local/cores)" \
    --train_config "conf/train_${method}.yaml" --ssl_tag "${method}" \
    --expdir "exp/${mic}" --resample "${resample}" \
    --local_data_opts "--sets train,dev ${data_opts[*]}" "${opts[@]}"
