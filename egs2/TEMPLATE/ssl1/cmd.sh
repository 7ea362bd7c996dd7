# shellcheck shell=bash
# Selects how to run jobs: on this machine (`local`) or with a cluster's scheduler. Set
# CMD_BACKEND, or edit a copy of this file in the recipe. Schedulers read
# conf/{slurm,queue,pbs}.conf.
case "${CMD_BACKEND:-local}" in
    local) train_cmd=run.pl ;;
    slurm) train_cmd=slurm.pl ;;
    sge) train_cmd=queue.pl ;;
    pbs) train_cmd=pbs.pl ;;
    *)
        echo "error: CMD_BACKEND=${CMD_BACKEND}: use local, slurm, sge or pbs" >&2
        exit 1
        ;;
esac
export train_cmd
export cuda_cmd=${train_cmd}    # ESPnet's launcher adds the number of GPUs
export decode_cmd=${train_cmd}
