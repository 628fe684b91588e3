"""Utilities that all other packages use. This package imports nothing else of stylert.

- `errors`: what a user can do wrong, as exceptions with one line each.
- `files/`: outputs that are whole or absent, inputs and JSON documents within bounds, the folder of caches.
- `machine/`: this processor, this machine's GPUs, and the data sheets of GPUs.
- `images/`: uint8 images and grids, PSNR and SSIM, the decoder of picture files.
- `programs/`: programs that end in one line, whatever fails or stops them.
- `child_processes`: Python interpreters that import nothing from the working folder.
- `seeds`: seeds as text, and the latents that belong to them.
- `statistics`, `paired_timing`, `roofline`: intervals of measurements, timing in alternation, lower bounds of time.
- `numerals`: numbers as text.
- `ranges`: the least and the greatest values of a configuration.
- `progress`, `text_table`: the callback of long calls, and tables as text.
- `standard_streams`: the standard output and error while native code prints to them.
"""
