#!/usr/bin/env bash
#SBATCH --job-name=kosmos_1
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=kosmos_1-%j.log
#
# One of the training scripts on all nodes of a Slurm job, which goes on in a new one until the training is complete:
#
#     sbatch examples/kosmos_1/slurm.sh examples/kosmos_1/pretrain.sh DATA.yaml OUT        from the root of the repository
#
# Five minutes before the time limit Slurm sends USR1 to this script, which hands it to the nodes; for a preemption it
# sends TERM to all of them. The training then saves a checkpoint and its script ends with 75, and the job is requeued. The
# five minutes must be enough for two updates and a checkpoint. After any other status the job ends with that status.
# Slurm itself requeues a job that loses a node.
set -euo pipefail

export GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}
export GPUS=$((SLURM_JOB_NUM_NODES * GPUS_PER_NODE))
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29400
export MASTER

srun bash "$@" &
step=$!
trap 'kill -USR1 "$step"' USR1 TERM # srun hands it to the script on every node
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done # a signal ends the wait, too
wait "$step" && status=0 || status=$?
if ((status == 75)); then
  echo "Not complete: the job is requeued."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
