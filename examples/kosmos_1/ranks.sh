# Sourced by the training scripts, which set micro_batches and out: divides the micro-batches of an update among GPUS GPUs,
# and starts the ranks.
#
# GPUS × --update-freq = micro_batches for any number of GPUs that divides it, so the micro-batches and the training do
# not depend on that number. More GPUs than micro-batches get one each. Sets update_freq and the options of torchrun.

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
[[ $gpus =~ ^[1-9][0-9]*$ ]] && ((gpus > micro_batches && gpus % gpus_per_node == 0)) && micro_batches=$gpus
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]] || ((micro_batches % gpus)); then
  echo "GPUS=$gpus does not divide the $micro_batches micro-batches of an update: use 8, 64 or another divisor." >&2
  exit 2
fi
update_freq=$((micro_batches / gpus))
gpus_per_node=$((gpus < gpus_per_node ? gpus : gpus_per_node))
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

# Runs a program and its arguments on all ranks, and exits with torchrun's status, or with
#
#     75   (EX_TEMPFAIL) after SIGTERM or SIGUSR1, here or on another node, if the training is not complete
#     130  after Ctrl-C; Ctrl-C twice ends all ranks at once, without a checkpoint
#
# The signal goes to the ranks as SIGUSR1: they end with a checkpoint and status 0. torchrun must not get it. It would kill
# the ranks after 30 seconds, or die of SIGUSR1, and it starts ranks again that end with another status than 0. So torchrun
# ignores all three (PET_SIGNALS_TO_HANDLE is its --signals-to-handle; Slurm sends signals to all processes of a job), and
# so do the ranks until the training listens.
run_ranks() {
  local torchrun status signal=
  export KOSMOS_STOPPED_FILE="$out/.stopped-${HOSTNAME:-node}-$$" # the ranks create it if they stop before the end
  # By default torchrun's agent keeps the ranks' store, and torch 2.11 keeps it over restarts, with what the dead ranks
  # wrote: the new ones connect to the dead ones' addresses, and fail or hang (github.com/pytorch/pytorch/issues/167288,
  # and 135712, whose mend, a new store for each restart, is undone by dynamic_rendezvous.py's _bootstrap_store_info).
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  (
    trap '' TERM USR1 INT
    PET_SIGNALS_TO_HANDLE=SIGHUP,SIGQUIT exec torchrun "${torchrun_options[@]}" "$@"
  ) &
  torchrun=$!
  trap 'signal=TERM' TERM USR1
  trap '[[ $signal == INT ]] && end_at_once "$torchrun"; signal=INT' INT
  wait "$torchrun" || true # it ends, or a signal comes
  while [[ $signal ]] && kill -0 "$torchrun" 2>/dev/null; do
    # again and again: those that still start do not listen
    signal_ranks USR1 "$torchrun"
    sleep 0.2
  done
  wait "$torchrun" && status=0 || status=$?
  if [[ -e $KOSMOS_STOPPED_FILE ]]; then
    rm -f "$KOSMOS_STOPPED_FILE"
    [[ $signal == INT ]] && exit 130
    exit 75
  fi
  exit "$status"
}

ranks_of() { cat "/proc/$1/task/"*/children 2>/dev/null || true; } # TORCHRUN: its children, by all of its threads

signal_ranks() { # SIGNAL TORCHRUN
  local ranks
  ranks=$(ranks_of "$2")
  # shellcheck disable=SC2086 # one argument each
  [[ -z $ranks ]] || kill "-$1" $ranks 2>/dev/null || true
}

end_at_once() { # TORCHRUN
  local ranks
  ranks=$(ranks_of "$1")
  kill -KILL "$1" 2>/dev/null || true
  for rank in $ranks; do kill -KILL -- "-$rank" 2>/dev/null || true; done # each is a group, with its data workers
  exit 130
}
