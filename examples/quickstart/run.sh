#!/usr/bin/env bash
# The quickstart: real images and text, a vocabulary, a KOSMOS model trained by fairseq-train, its answers, a report.
#
#     bash examples/quickstart/run.sh [OUT]
#
# It needs `pip install ".[fairseq,quickstart]"` and about twenty minutes on two CPU cores. Run again, it resumes where
# it stopped.
set -euo pipefail

here=$(dirname "$0")
out=${1:-$here/out}
mkdir -p "$out"

# PyTorch allocates large buffers at every step; by default glibc would return and clear them each time.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
# Worker processes must not spin while the training needs the cores.
export OMP_WAIT_POLICY=PASSIVE PYTHONWARNINGS=ignore

updates=750

python "$here/prepare.py" "$out/data"

# The paper's optimizer and schedule (AdamW, β = 0.9 and 0.98, weight decay 0.01, linear decay to 0) and its frozen
# vision encoder with the last layer trained, on a small model: 3 layers of 192, 8 embeddings per image.
grep -qs "done training" "$out/train.log" || fairseq-train "$out/data/data.yaml" \
  --task kosmos_multimodal --arch kosmos_tiny --criterion multimodal_cross_entropy \
  --tokens-per-sample 256 --image-tokens 8 --image-size 128 --cache-vision-features \
  --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 \
  --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 60 \
  --total-num-update $updates --max-update $updates --batch-size 64 --update-freq 1 \
  --validate-interval-updates 200 --save-interval-updates 200 --keep-interval-updates 1 --no-epoch-checkpoints \
  --num-workers 1 --seed 1 --log-format json --log-interval 10 --save-dir "$out/checkpoints" \
  2>&1 | python "$here/progress.py" $updates "$out/train.log"

python "$here/evaluate.py" "$out/data" "$out"
python "$here/report.py" "$out"
