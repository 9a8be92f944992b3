#!/usr/bin/env bash
# KOSMOS-1's language-only instruction tuning (§3.3): every value of the paper's Tables 17 and 19.
#
#     bash examples/kosmos_1/instruction_tuning.sh [DATA.yaml [OUT [PRETRAINED.pt]]]       on one node with 8 GPUs
#     GPUS=64 MASTER=node0:29400 bash examples/kosmos_1/instruction_tuning.sh              on eight, started on each
#     kosmos-inspect --plan examples/kosmos_1/instruction_tuning.sh                        its cost
#
# kosmos-inspect: paper instruction_tuning
#
# Started again, it resumes from OUT/checkpoint_last.pt. On SIGTERM, SIGUSR1 and Ctrl-C it saves first, and exits
# with 75 or 130. instruction_tuning.yaml is the same for fairseq-hydra-train.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${1:-$here/instruction_tuning_data.yaml} # 256 instructions, 32 text rows, 768 captions and 16 pages (Table 19)
out=${2:-$here/out/instruction_tuning}
pretrained=${3:-$here/out/pretraining/checkpoint_last.pt}
micro_batches=16
source "$here/ranks.sh" # GPUS → update_freq, torchrun_options, run_ranks

model=(
  --arch kosmos_1
  --decoder-layers 24          # Table 17: number of layers
  --decoder-embed-dim 2048     # Table 17: hidden size
  --decoder-ffn-embed-dim 8192 # Table 17: inner size of the feed-forward networks
  --decoder-attention-heads 32 # Table 17: attention heads
  --activation-fn gelu         # Table 17: activation
  --dropout 0.1                # Table 17: dropout
  --attention-dropout 0.1      # Table 17: attention dropout
  --positions xpos             # Table 17: relative position embedding
  --initialization xavier      # Table 17: Magneto's initialization, Xavier with a gain
  --image-tokens 64            # Table 17: soft tokens of an image
  --tokens-per-sample 2048     # Table 17: maximum length
  --vision-encoder clip        # §3.2: CLIP ViT-L/14, 1,024 features of 224×224 images,
  --vision-model ViT-L-14      #
  --vision-weights openai      # (without access to the weights' server: a .pt or .safetensors file)
  --image-size 224             #
  --trainable-vision-layers 1  # frozen except for its last layer
  --resampler attentive        # §2.1; of the kinds in public relatives, the one that gives "about 1.6B" parameters
)
optimization=(
  --criterion multimodal_cross_entropy # §2.3
  --max-update 10000                   # Table 19: instruction tuning steps
  --optimizer fused_adamw              # Table 19: AdamW
  --adam-betas '(0.9, 0.98)'           # Table 19: Adam β
  --adam-eps 1e-6                      # Table 19: Adam ε
  --weight-decay 0.01                  # Table 19: weight decay
  --lr 2e-5                            # Table 19: peak learning rate
  --lr-scheduler polynomial_decay      # Table 19: linear decay …
  --power 1                            # … a polynomial of degree 1 …
  --end-learning-rate 0                # … to 0 …
  --total-num-update 10000             # … at the last update
  --warmup-updates 375                 # Table 19: warm-up steps
  --clip-norm 0                        # in no table, so none; the gradient norm is logged as gnorm anyway
  --seed 2 # another data order than in pretraining
)
batches=(
  # The data YAML sets the size of an update; these options divide it. About 106 rows of 2,048 tokens are seven
  # per micro-batch; the limits leave room for longer captions and instructions.
  --update-freq "$update_freq"
  --batch-size 12
  --max-tokens 24576
  --num-workers 4 # per rank; they decode and resize the images
)
precision=(
  # with float32 copies of the trained weights, as in pretraining; at a tenth of its learning rate they matter more
  --bf16
  --ddp-backend pytorch_ddp
  --compile                       # the first update takes a minute or two more
  --frozen-vision-dtype bfloat16
)
checkpoints=(
  # Loads only the weights: optimizer, schedule and data start from the beginning. --restore-file with --reset-optimizer,
  # --reset-lr-scheduler, --reset-dataloader and --reset-meters would reset them again at every restart, and would train
  # from random weights if the file is missing.
  --finetune-from-model "$pretrained"
  --save-dir "$out"
  --save-interval-updates 1000 # validates too
  --keep-interval-updates 3    # 23 GB each
  --no-epoch-checkpoints
)
log=(
  --log-format json --log-interval 10
  --tensorboard-logdir "$out/tensorboard"
)

run_ranks "$(command -v fairseq-train)" "$data" --task kosmos_multimodal \
  "${model[@]}" "${optimization[@]}" "${batches[@]}" "${precision[@]}" "${checkpoints[@]}" "${log[@]}"
