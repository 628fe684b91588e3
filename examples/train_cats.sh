#!/bin/sh
# How the shipped checkpoint was trained: small images first, each stage growing out of the one before. On two cores the first
# stages take minutes, and a 64 px run from nothing did not get in an hour to where the last stage begins.
# Needs `pip install 'stylert[train]' 'robohash==2.0'`. The shipped run's small images were box averages of the 64 px ones.
set -eu
data=${1:-data}
runs=${2:-runs}
mkdir -p "$data"
for size in 16 32 64; do
    python "$(dirname "$0")/make_cats.py" --count 40000 --resolution $size --out "$data/cats$size.zip"
done
# Since that run, a transfer has no ramp-up of G_ema, and lazy regularisation lowers a learning rate also where its weight is
# 0. These options bring both values back.
train="stylert train --preset cpu --set ema_rampup=0.05" # R1 in proportion to the pixels, at most 128 channels
small="--batch 32 --pl-weight 0 --lr 0.003125 --set d_lr=0.0025"
$train --data "$data/cats16.zip" --out "$runs/cats16" $small --kimg 40
$train --data "$data/cats32.zip" --out "$runs/cats32" $small --kimg 60 \
    --transfer "$runs/cats16/snapshot.safetensors"
$train --data "$data/cats64.zip" --out "$runs/cats64" --kimg 52 --transfer "$runs/cats32/snapshot.safetensors"
# By now the discriminator was winning: a stronger R1 and a smaller step.
$train --data "$data/cats64.zip" --out "$runs/cats64-late" --gamma 5 --lr 0.002 --kimg 44 \
    --transfer "$runs/cats64/snapshot.safetensors"
