"""Utilities that all other packages use. This package imports nothing else of stylert.

- `errors`: what a user can do wrong, as exceptions with one line each.
- `atomic`, `partials`, `outputs`: files that are whole or absent, what a kill leaves of them, and files that are not replaced.
- `cache`: the folder of the user's caches.
- `files`, `json_documents`: files and JSON of others, read within bounds, or refused in one line.
- `pictures`: picture files of others become pixels, by one rule.
- `host`, `devices`, `gpu_specs`: this processor, this machine's GPUs, and the data sheets of GPUs.
- `seeds`, `images`, `image_similarity`: latents from seeds, uint8 images and grids, PSNR and SSIM.
- `statistics`, `paired_timing`, `roofline`: intervals of measurements, two networks timed in alternation, lower bounds of time.
- `progress`: the callback by which a long call reports its progress.
"""
