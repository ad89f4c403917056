#!/usr/bin/env bash
# A search as a Slurm job on one or several nodes, which goes on by itself after its time limit.
#
# Once, on a login node, in the root of a checkout that all nodes see: bash search/cloud/node.sh set-up
# Then, with your partition and account, and the flags of search.run, of which --name is needed:
#
#   sbatch --nodes 2 examples/clusters/slurm.sh --space qkd --name qkd --storage ~/studies
#   python -m search.status ~/studies/qkd
#
# Two minutes before the limit the search gets SIGTERM and leaves with checkpoints, and the job goes
# back to the queue; `scancel` ends it for good. All nodes must share the storage.
#SBATCH --job-name=paretoseg
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

node=$SLURM_SUBMIT_DIR/search/cloud/node.sh
cpus=--num-cpus=$SLURM_CPUS_PER_TASK
search=0 limit_is_near=
trap '((search)) && kill -TERM "$search"' TERM
trap 'limit_is_near=yes; ((search)) && kill -TERM "$search"' USR1

if ((SLURM_JOB_NUM_NODES > 1)); then
  bash "$node" run ray get-auth-token --generate > /dev/null
  port=$((20000 + SLURM_JOB_ID % 10000)) # nodes may be shared with other jobs
  export RAY_ADDRESS=$(getent ahostsv4 "$(hostname)" | cut -d ' ' -f 1 | head -n 1):$port
  others=$((SLURM_JOB_NUM_NODES - 1))
  bash "$node" head --port=$port --temp-dir="/tmp/ray-$SLURM_JOB_ID" "$cpus"
  srun --nodes=$others --ntasks=$others --exclude="$(hostname)" \
    bash "$node" keep "$RAY_ADDRESS" "$cpus" &
fi
bash "$node" run python -m search.run --or-resume "$@" &
search=$!
status=0
wait "$search" || status=$?
while kill -0 "$search" 2> /dev/null; do # a signal ends `wait` before the search has ended
  status=0
  wait "$search" || status=$?
done
if [[ $limit_is_near && $status == 130 ]]; then # interrupted, and kept
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
