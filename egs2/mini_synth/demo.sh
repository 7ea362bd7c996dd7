#!/usr/bin/env bash
# Runs all steps on synthetic speech, in minutes on two CPU cores: pretraining with BEST-RQ
# and with BiRQ, fine-tuning from both and from scratch, decoding, scoring. It calls
# ssl1/run.sh and asr1/run.sh in this folder. To resume, repeat the command.
set -e
set -u
set -o pipefail
cd "$(dirname "$0")"
SECONDS=0
say() { echo "[$((SECONDS / 60))m$(printf %02d $((SECONDS % 60)))s] $*"; }
log=${PWD}/demo.log
: > "${log}"

# in_parallel FOLDER EXPERIMENT MESSAGE OPTIONS -- METHOD...: runs run.sh for all methods in
# parallel, with one thread each (on two cores, this is faster than consecutive runs with two
# threads). EXPERIMENT is the folder in which METHOD trains, or none.
in_parallel() {
    local folder=$1 experiment=$2 message=$3 method pids=() options=() experiments=()
    shift 3
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    say "${message}: $*"
    first_line=$(($(wc -l < "${log}") + 1)) stages=0 told='' told_at=-30
    for method in "$@"; do
        (cd "${folder}" && ./run.sh --method "${method}" --num_threads 1 \
            "${options[@]}") >> "${log}" 2>&1 &
        pids+=($!)
        experiments+=("${experiment/METHOD/${method}}")
    done
    while [ -n "$(jobs -rp)" ]; do
        tell_stages
        if [ $((SECONDS - told_at)) -ge 30 ]; then tell_progress; fi
        sleep 1
    done
    tell_stages
    for pid in "${pids[@]}"; do
        wait "${pid}" || { tail -n 20 "${log}"; echo "failed, see ${log}"; exit 1; }
    done
}
tell_stages() {  # prints each stage that has begun since the last call
    local stage
    while read -r stage; do
        say "  ${stage}"
        stages=$((stages + 1))
    done < <(tail -n +"${first_line}" "${log}" | grep -o 'Stage [0-9]*: [^:,]*' |
        awk '!seen[$0]++' | tail -n +$((stages + 1)))
}
tell_progress() {  # prints the progress of the trainings if it has changed
    local line logs=("${experiments[@]/%//train.log}")
    if ! (cd "${folder}" && ls "${logs[@]}") > /dev/null 2>&1; then return; fi
    told_at=${SECONDS}
    while read -r line; do
        if [[ ${told} != *"${line}"* ]]; then say "    ${line}"; fi
        told+="${line}|"
    done < <(cd "${folder}" && . ./path.sh &&
        python3 -m espnet2_birq.bin.status --brief "${experiments[@]}")
}

say "about twelve minutes on two free cores"
in_parallel ssl1 none "1 of 4, corpus and data preparation" --stop_stage 6 -- birq
in_parallel ssl1 exp/ssl_train_METHOD_raw "2 of 4, pretraining" --stage 7 -- best_rq birq
in_parallel asr1 none "3 of 4, data preparation for ASR" --stop_stage 10 -- scratch
in_parallel asr1 exp/asr_METHOD "4 of 4, fine-tuning, decoding, scoring" \
    --stage 11 --inference_nj 1 -- scratch best_rq birq

say "done; every log is in ${log}, ssl1/exp and asr1/exp"
cd asr1
. ./path.sh
python3 -m espnet2_birq.bin.summarize \
    --system "no pretraining" none exp/asr_scratch \
    --system BEST-RQ ../ssl1/exp/ssl_train_best_rq_raw exp/asr_best_rq \
    --system BiRQ ../ssl1/exp/ssl_train_birq_raw exp/asr_birq
echo
echo "The speech is synthetic: this tests the software, not the method."
