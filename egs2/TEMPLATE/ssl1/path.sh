# shellcheck shell=bash
# Sourced by every script of a recipe, from the recipe's folder egs2/<corpus>/<task>.
# Replaces ESPnet's path.sh: sets the same variables, but uses the scripts of tools/espnet.
MAIN_ROOT=$(cd -P . && cd ../../.. && pwd)  # the folder may be reached by a link
if [ ! -e "${MAIN_ROOT}/tools/espnet/egs2" ]; then
    echo "error: no ESPnet tree in ${MAIN_ROOT}/tools/espnet: run" \
        "${MAIN_ROOT}/local/setup.sh (see --help for an ESPnet of your own)" >&2
    exit 1
fi
if [ -e "${MAIN_ROOT}/.venv/bin/python3" ]; then
    export PATH="${MAIN_ROOT}/.venv/bin:${PATH}"
elif [ -f "${MAIN_ROOT}/tools/espnet/tools/activate_python.sh" ]; then
    . "${MAIN_ROOT}/tools/espnet/tools/activate_python.sh"
fi
. "${MAIN_ROOT}/tools/espnet/tools/extra_path.sh"
export PATH="${PWD}/utils:${PATH}"
# Scoring uses NIST's sclite if it is installed (Debian has it in /usr/lib/sctk/bin), otherwise
# a stand-in that computes the same table.
export PATH="${PATH}:/usr/lib/sctk/bin:${MAIN_ROOT}/local/sclite"
export PYTHONPATH="${MAIN_ROOT}${PYTHONPATH:+:${PYTHONPATH}}"
export PYTHONIOENCODING=UTF-8
export LC_ALL=C
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Since Slurm 22.05, srun (of ESPnet's launcher) gets one CPU instead of those of the job.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK}"

# Exports settings for training on the CPU with $1 threads (explained in
# espnet2_birq/kernels/allocator.py).
cpu_training() {
    local settings
    export OMP_NUM_THREADS=$1
    settings=$(python3 -m espnet2_birq.kernels.allocator)
    # shellcheck disable=SC2086,SC2163
    export ${settings}
}
if [ -f local/path.sh ]; then . local/path.sh; fi
