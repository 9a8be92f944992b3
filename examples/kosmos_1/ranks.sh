# Sourced by the training scripts, which set micro_batches: divides the micro-batches of an update among GPUS GPUs.
#
# GPUS × --update-freq = micro_batches for any number of GPUs that divides it, so the micro-batches and the training do
# not depend on that number. More GPUs than micro-batches get one each. Sets update_freq and the options of torchrun.

gpus=${GPUS:-8}
[[ $gpus =~ ^[1-9][0-9]*$ ]] && ((gpus > micro_batches && gpus % 8 == 0)) && micro_batches=$gpus
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]] || ((micro_batches % gpus)); then
  echo "GPUS=$gpus does not divide the $micro_batches micro-batches of an update: use 8, 64 or another divisor." >&2
  exit 2
fi
update_freq=$((micro_batches / gpus))
gpus_per_node=$((gpus < 8 ? gpus : 8))
nodes=$((gpus / gpus_per_node))

torchrun_options=(
  --nnodes "$nodes"
  --nproc-per-node "$gpus_per_node"
  --max-restarts 3 # if a rank is lost, all are restarted from the last checkpoint
)
if ((nodes > 1)); then # the script is started on every node; MASTER is one of them
  torchrun_options+=(--rdzv-backend c10d --rdzv-id kosmos --rdzv-endpoint "${MASTER:-set-MASTER-to-a-node:29400}")
else
  torchrun_options+=(--standalone)
fi
