#!/usr/bin/env bash
# Raw text, captioned pictures and illustrated web pages → shards → statistics and samples → a training run.
#
#     bash examples/corpora/run.sh [OUT]
#
# It needs `pip install ".[fairseq,curation]"`, apt-get and dpkg (nothing is installed with them) and 1.5 GB of disk. If
# it is stopped, running it again resumes it.
set -euo pipefail

here=$(dirname "$0")
out=${1:-$here/out}
raw=$out/raw
data=$out/data
mkdir -p "$raw/packages" "$data"
export OMP_WAIT_POLICY=PASSIVE PYTHONWARNINGS=ignore

# ---- Raw data: Debian packages, unpacked and converted to formats that kosmos-prepare reads ----

for package in anarchism fortunes gimp-help-en jargon-text opencv-doc tuxpaint-stamps-default; do
  test -d "$raw/packages/$package" || {
    echo "fetching $package" >&2
    rm -rf "$raw/deb" "$raw/part" && mkdir -p "$raw/deb"
    (cd "$raw/deb" && apt-get -o APT::Sandbox::User="$(id -un)" --quiet=2 download "$package")
    dpkg -x "$raw"/deb/*.deb "$raw/part"
    mv "$raw/part" "$raw/packages/$package"
  }
done
python "$here/raw.py" "$raw/packages" "$raw/converted"

# ---- Shards and binarized text ----

help=$raw/packages/gimp-help-en/usr/share/gimp/2.0/help/en
texts=$raw/converted/texts
kosmos-prepare tokenizer "$texts" --out "$data/vocabulary" --size 4000 --character-coverage 0.99995 # otherwise Z has no piece
rows="--vocabulary $data/vocabulary --tokens-per-sample 1024"
kosmos-prepare text "$texts/anarchism.jsonl.gz" --out "$data/book" --valid-share 0.05 $rows
kosmos-prepare text "$texts/fortunes" --out "$data/sayings" --separator % --valid-share 0.01 $rows
kosmos-prepare text "$texts/jargon.txt.gz" --out "$data/jargon" --separator "" --valid-share 0.01 $rows
kosmos-prepare captions "$raw/converted/pictures" --out "$data/pictures" --valid-share 0.05
kosmos-prepare pages "$help" --out "$data/gimp" --valid-share 0.05 $rows --image-tokens 8
kosmos-prepare pages "$raw/converted/crawl" --out "$data/opencv" --valid-share 0.05 $rows --image-tokens 8

# ---- Counts and plots, and documents as the model will see them ----

cp "$here/data.yaml" "$data/data.yaml"
kosmos-prepare stats "$data/data.yaml" --out "$out/stats" --image-tokens 8 --tokens-per-sample 1024
sizes="--image-tokens 8 --image-size 64 --tokens-per-sample 1024"
kosmos-prepare show "$data/data.yaml" --out "$out/documents.html" $sizes
kosmos-inspect "$data/data.yaml" $sizes --html "$out/batch.html" > "$out/batch.txt"

# ---- A training run on all corpora ----

fairseq-train "$data/data.yaml" \
  --task kosmos_multimodal --arch kosmos_tiny --criterion multimodal_cross_entropy \
  $sizes \
  --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.01 --clip-norm 1.0 \
  --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 10 --total-num-update 60 --max-update 60 \
  --batch-size 64 --update-freq 1 --num-workers 1 --seed 1 --no-save --log-format simple --log-interval 10
echo "The counts are in $out/stats, documents in $out/documents.html, a micro-batch in $out/batch.html"
