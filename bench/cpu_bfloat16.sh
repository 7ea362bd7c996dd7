#!/usr/bin/env bash
# Compares bfloat16 autocast on a CPU (model_conf: cpu_bfloat16) with single precision. Both
# train the same 200 updates at the same time, with one thread each, so that other work on
# the machine slows both. Prints seconds per update and their ratio, and plots the losses.
#
#   bench/cpu_bfloat16.sh [birq|best_rq|...]    after stages 1 to 6 of
#                                               egs2/mini_librispeech/ssl1/run.sh
set -euo pipefail
method=${1:-birq}
figure=$(cd "$(dirname "$0")" && pwd)/cpu_bfloat16_${method}.png
cd "$(dirname "$0")/../egs2/mini_librispeech/ssl1"
pids=()
for name in float32 bfloat16; do
    flag=false
    if [ "${name}" = bfloat16 ]; then flag=true; fi
    rm -rf "exp/ssl_bench_${name}"
    ./birq.sh --train_set train --valid_set valid --stage 7 --ngpu 0 --num_threads 1 \
        --train_config "conf/train_${method}.yaml" --ssl_tag "bench_${name}" \
        --ssl_args "--model_conf cpu_bfloat16=${flag} --max_epoch 1 \
            --num_iters_per_epoch 200 --batch_bins 512000" \
        > "exp/bench_${name}.log" 2>&1 &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "${pid}"; done
. ./path.sh
python3 - "${method}" <<'EOF'
import statistics
import sys
from pathlib import Path

from espnet2_birq.experiments.training_log import read_training_log

times = {}
for name in ("float32", "bfloat16"):
    log = read_training_log(Path(f"exp/ssl_bench_{name}"))
    # Updates 11 to 100: after the warm-up, and while both are still running.
    values = [interval["train_time"] for interval in log.intervals[1:10]]
    times[name] = statistics.median(values)
    loss = ", ".join(f"{log.intervals[i]['loss_anchor']:.3f}" for i in (0, 9, 19))
    print(
        f"{sys.argv[1]} {name}: {times[name]:.2f} s an update, median of "
        f"{len(values)} intervals [{min(values):.2f}, {max(values):.2f}]; anchor loss "
        f"at updates 10, 100, 200: {loss}"
    )
print(f"float32 / bfloat16: {times['float32'] / times['bfloat16']:.2f}")
EOF
python3 -m espnet2_birq.bin.plot_training --keys loss_anchor --out "${figure}" \
    float32=exp/ssl_bench_float32 bfloat16=exp/ssl_bench_bfloat16
