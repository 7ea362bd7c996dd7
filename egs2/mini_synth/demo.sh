#!/usr/bin/env bash
# The whole way on synthetic speech, in minutes on two CPU cores: pretraining with
# BEST-RQ and with BiRQ, fine-tuning from both and from scratch, decoding, error rates.
# It calls the recipes beside it (ssl1/run.sh, asr1/run.sh); repeated, it resumes.
set -e
set -u
set -o pipefail
cd "$(dirname "$0")"
SECONDS=0
say() { echo "[$((SECONDS / 60))m$(printf %02d $((SECONDS % 60)))s] $*"; }
log=${PWD}/demo.log
: > "${log}"

# in_parallel FOLDER MESSAGE OPTIONS -- METHOD...: run.sh for each method, one thread
# each (two single-threaded runs get more done on two cores than one with two threads).
# How far their trainings are is told every 20 seconds.
in_parallel() {
    local folder=$1 message=$2 method watch pids=() options=() experiments=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    say "${message}: $*"
    for method in "$@"; do
        (cd "${folder}" && ./run.sh --method "${method}" --num_threads 1 \
            "${options[@]}") >> "${log}" 2>&1 &
        pids+=($!)
        case ${folder} in
            ssl1) experiments+=("ssl1/exp/ssl_train_${method}_raw") ;;
            *) experiments+=("asr1/exp/asr_${method}") ;;
        esac
    done
    (cd "${folder}" && . ./path.sh && cd .. &&
        exec python3 -m espnet2_birq.bin.watch_training "${experiments[@]}") &
    watch=$!
    for pid in "${pids[@]}"; do
        wait "${pid}" || {
            kill "${watch}"; tail -n 20 "${log}"; echo "failed, see ${log}"; exit 1
        }
    done
    kill "${watch}"
    wait "${watch}" 2>/dev/null || true
}

in_parallel ssl1 "corpus and data preparation" --stop_stage 6 -- birq
in_parallel ssl1 "pretraining" --stage 7 -- best_rq birq
in_parallel asr1 "data preparation for ASR" --stop_stage 10 -- scratch
in_parallel asr1 "fine-tuning, decoding, scoring" --stage 11 --inference_nj 1 -- \
    scratch best_rq birq

say "done; every log is in ${log}, ssl1/exp and asr1/exp"
cd asr1
. ./path.sh
python3 -m espnet2_birq.bin.summarize \
    --system "no pretraining" none exp/asr_scratch \
    --system BEST-RQ ../ssl1/exp/ssl_train_best_rq_raw exp/asr_best_rq \
    --system BiRQ ../ssl1/exp/ssl_train_birq_raw exp/asr_birq
echo
echo "The speech is synthetic: this proves the machinery, not the method."
