# Read by the training scripts, which set micro_batches: how GPUS GPUs share the micro-batches of an update.
#
# GPUS × --update-freq is micro_batches for any number of GPUs that divides it, so the same micro-batches are made
# whatever the number, and the training is the same. Sets update_freq and the options of torchrun.

gpus=${GPUS:-8}
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
  --max-restarts 3 # a lost rank ends the others; all go on from the last checkpoint
)
if ((nodes > 1)); then # the script is started on every node, with MASTER naming one of them
  torchrun_options+=(--rdzv-backend c10d --rdzv-id kosmos --rdzv-endpoint "${MASTER:-set-MASTER-to-a-node:29400}")
else
  torchrun_options+=(--standalone)
fi
