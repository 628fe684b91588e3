#!/bin/sh
# The pictures of docs/latents.md, from the shipped checkpoint. In the repository's root, with stylert on the PATH:
#     sh examples/latents_gallery.sh
set -eu
checkpoint=${1:-examples/cats64.safetensors}
gallery=${2:-docs/latents}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A signal alone would leave the folder: sh runs the line above only when it exits by itself.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

stylert export "$checkpoint" --out "$work/bundle"
for level in coarse middle fine; do
    stylert mix "$work/bundle" --rows 0-3 --cols 10-14 --levels "$level" --out "$gallery/mix-$level.png"
done
stylert sweep "$work/bundle" --seeds 0-3 --psi -1,-0.5,0,0.5,1 --out "$gallery/sweep.png"
stylert directions pca "$checkpoint" --levels coarse --count 6 --out "$work/pca.safetensors"
stylert directions sheet "$work/bundle" "$work/pca.safetensors" --seed 1 --psi 0.7 --strengths -4,-2,0,2,4 \
    --out "$gallery/directions-coarse.png"
python - "$work" <<'EOF_SCORES'
import csv
import sys
from stylert.runtime import Generator

seeds = range(400)
with Generator.load(f"{sys.argv[1]}/bundle") as g:
    images = g(seeds) / 255
warmth = images[..., 0].mean((1, 2)) - images[..., 2].mean((1, 2))
with open(f"{sys.argv[1]}/scores.csv", "w", newline="") as file:
    csv.writer(file).writerows([("seed", "warm"), *zip(seeds, warmth)])
EOF_SCORES
stylert directions scores "$checkpoint" "$work/scores.csv" --out "$work/warm.safetensors"
stylert edit "$work/bundle" --directions "$work/warm.safetensors" --direction warm=-3,-1.5,0,1.5,3 --seeds 0-3 --psi 0.7 \
    --out "$gallery/directions-warm.png"
stylert export "$checkpoint" --style-offsets --out "$work/steerable"
stylert directions scores "$checkpoint" "$work/scores.csv" --styles 3 --out "$work/styles.safetensors"
stylert directions sheet "$work/steerable" "$work/styles.safetensors" --seed 1 --psi 0.7 --strengths -8,-4,0,4,8 --precision int8 \
    --out "$gallery/directions-styles.png"
python - "$work" <<'EOF_MASKS'
import sys

import numpy as np
from PIL import Image

y, x = np.mgrid[:64, :64]
ways = {"ear": [(54, 4, 54, 9)], "eyes": [(35, 25, 32, 25), (59, 24, 62, 24)], "tail": [(12, 3, 17, 3)], "lid": [(39, 23, 39, 18)]}
for name, handles in ways.items():
    near = [np.hypot(x - (a + s * (c - a)), y - (b + s * (d - b))) <= 10 for a, b, c, d in handles for s in np.linspace(0, 1, 20)]
    Image.fromarray(np.any(near, 0)).save(f"{sys.argv[1]}/{name}.png")
EOF_MASKS
drag() {
    name=$1 seed=$2
    shift 2
    stylert drag "$checkpoint" --seed "$seed" --psi 0.7 "$@" --mask "$work/$name.png" --seconds 600 --out "$work/$name"
}
drag ear 8 --point 54,4:54,9
drag eyes 1 --point 35,25:32,25 --point 59,24:62,24
drag tail 11 --point 12,3:17,3
drag lid 5 --point 39,23:39,18
python - "$work" "$gallery/drag.png" <<'EOF_DRAGS'
import sys

import numpy as np
from PIL import Image

pairs = [np.asarray(Image.open(f"{sys.argv[1]}/{name}/handles.png")) for name in ("ear", "eyes", "tail", "lid")]
Image.fromarray(np.vstack([np.hstack(pairs[:2]), np.hstack(pairs[2:])])).save(sys.argv[2], optimize=True)
EOF_DRAGS
stylert interpolate "$work/bundle" --seeds 0-3 --seconds 6 --fps 20 --loop --precision int8 --out "$gallery/loop.webp"
