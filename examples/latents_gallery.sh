#!/bin/sh
# The pictures of docs/latents.md, from the shipped checkpoint. In the repository's root, with stylert on the PATH:
#     sh examples/latents_gallery.sh
set -eu
checkpoint=${1:-examples/cats64.safetensors}
gallery=${2:-docs/latents}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

stylert export "$checkpoint" --out "$work/bundle"
for level in coarse middle fine; do
    stylert mix "$work/bundle" --rows 0-3 --cols 10-14 --levels "$level" --out "$gallery/mix-$level.png"
done
stylert sweep "$work/bundle" --seeds 0-3 --psi -1,-0.5,0,0.5,1 --out "$gallery/sweep.png"
stylert interpolate "$work/bundle" --seeds 0-3 --seconds 6 --fps 20 --loop --precision int8 --out "$gallery/loop.webp"
