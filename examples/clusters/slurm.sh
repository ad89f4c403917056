#!/usr/bin/env bash
# A search as a Slurm job on one or several nodes, which goes on by itself after its time limit.
#
# Once, on a login node, in the root of a checkout that all nodes see: bash search/cloud/node.sh set-up
# Then, with your partition and account, and the flags of search.run, of which --name is needed:
#
#   sbatch --nodes 2 examples/clusters/slurm.sh --space qkd --name qkd --storage ~/studies
#   bash search/cloud/node.sh run python -m search.status ~/studies/qkd
#
# Two minutes before the limit the search gets SIGTERM and leaves with checkpoints, and the job goes
# back to the queue. `scancel --batch --signal=TERM JOB` ends it as Ctrl-C does, `scancel JOB` at once; both
# for good, and the study is kept. All nodes must share the storage.
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
cpus=$SLURM_CPUS_PER_TASK
# Nodes may be shared with other jobs, so that each port but the head's is any free one
ports="--min-worker-port=0 --max-worker-port=0"
search=0 limit_is_near=
end_search() { ((!search)) || kill -TERM "$search" 2> /dev/null || true; }
trap end_search TERM
trap 'limit_is_near=yes; end_search' USR1

if ((SLURM_JOB_NUM_NODES > 1)); then
  bash "$node" run ray get-auth-token --generate > /dev/null
  address=$(getent ahostsv4 "$SLURMD_NODENAME" | cut -d ' ' -f 1 | head -n 1)
  port=$((20000 + SLURM_JOB_ID % 10000))
  export RAY_ADDRESS=$address:$port
  others=$((SLURM_JOB_NUM_NODES - 1))
  # shellcheck disable=SC2086
  bash "$node" head --node-ip-address="$address" --port=$port --ray-client-server-port=$((port + 1)) \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --num-cpus="$cpus" $ports
  # shellcheck disable=SC2086
  srun --nodes=$others --ntasks=$others --cpus-per-task="$cpus" --exclude="$SLURMD_NODENAME" \
    bash "$node" keep "$RAY_ADDRESS" --num-cpus="$cpus" $ports &
fi
bash "$node" run python -m search.run --or-resume "$@" &
search=$!
while kill -0 "$search" 2> /dev/null; do
  wait "$search" || true # which a signal ends, too
done
status=0
wait "$search" || status=$?
if [[ $limit_is_near && $status == 130 ]]; then # interrupted, and kept
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
