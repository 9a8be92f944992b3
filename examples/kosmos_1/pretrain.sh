#!/usr/bin/env bash
# KOSMOS-1's pretraining: every value of the paper's Tables 17 and 18. Table 20's weights are in the data YAML.
#
#     bash examples/kosmos_1/pretrain.sh [DATA.yaml [OUT]]                 on one node with 8 GPUs
#     GPUS=64 MASTER=node0:29400 bash examples/kosmos_1/pretrain.sh        on eight nodes with 8, started on each
#     kosmos-inspect --plan examples/kosmos_1/pretrain.sh                  its cost, without data or GPUs
#
# kosmos-inspect: paper pretraining
#
# Started again, it resumes from OUT/checkpoint_last.pt. On SIGTERM, SIGUSR1 and Ctrl-C it saves first, and exits
# with 75 or 130. pretrain.yaml is the same run for fairseq-hydra-train.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${1:-$here/pretrain_data.yaml} # 256 text rows, 6,144 captions and 128 pages an update (Table 18)
out=${2:-$here/out/pretraining}
micro_batches=64
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
  --max-update 300000                  # Table 18: training steps
  --optimizer fused_adamw              # Table 18: AdamW
  --adam-betas '(0.9, 0.98)'           # Table 18: Adam β
  --adam-eps 1e-6                      # Table 18: Adam ε
  --weight-decay 0.01                  # Table 18: weight decay
  --lr 2e-4                            # Table 18: peak learning rate
  --lr-scheduler polynomial_decay      # Table 18: linear decay …
  --power 1                            # … a polynomial of degree 1 …
  --end-learning-rate 0                # … to 0 …
  --total-num-update 300000            # … at the last update
  --warmup-updates 375                 # Table 18: warm-up steps
  --clip-norm 0                        # in no table, so none; the gradient norm is logged as gnorm anyway
  --seed 1
)
batches=(
  # The data YAML sets the size of an update; these options divide it. 640 rows of 2,048 tokens in 64 micro-batches are
  # ten rows each, with captions of the usual length; the limits leave room for longer ones, and a GPU of 80 GB for them.
  --update-freq "$update_freq"
  --batch-size 12
  --max-tokens 24576
  --num-workers 4 # per rank; they decode and resize about 70 images per second
)
precision=(
  # bf16 has float32's range, so there is no loss scale. The optimizer updates float32 copies of the trained weights.
  # --memory-efficient-bf16 would save these and the float32 gradients, 10 GiB, but it rounds weights to 8 bits after
  # every update, and a change below 1/512 of its weight is lost: late in the decay, nearly every one.
  --bf16
  --ddp-backend pytorch_ddp
  --compile                       # the first update takes a minute or two more
  --frozen-vision-dtype bfloat16
  # --checkpoint-activations full # if memory runs out: a third more computation, a fraction of the activations
)
checkpoints=(
  --save-dir "$out"
  --save-interval-updates 1000          # about 25 minutes on 64 A100s at 40% of their peak; validates too
  --keep-interval-updates 3             # 23 GB each: the last three …
  --keep-interval-updates-pattern 50000 # … and every 50,000th
  --no-epoch-checkpoints
)
log=(
  --log-format json --log-interval 10
  --tensorboard-logdir "$out/tensorboard"
)

run_ranks "$(command -v fairseq-train)" "$data" --task kosmos_multimodal \
  "${model[@]}" "${optimization[@]}" "${batches[@]}" "${precision[@]}" "${checkpoints[@]}" "${log[@]}"
