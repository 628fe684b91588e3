"""Checkpoints of other projects, read without torch and without running any code from them.

`import_checkpoint.py` is the way in. The other files, from bytes to networks:

- `pickle_reader.py`: interprets the opcodes of a pickle into plain data.
- `records.py` and `allow_list.py`: the objects that a pickle may name, as inert records.
- `archive.py`: the containers of `torch.save`.
- `official.py` and `stylegan3.py` with `official_modules.py`, `rosinality.py`, `stylegan1_ports.py`: readers of PyTorch projects.
- `tensorflow.py` and `tensorflow_stylegan1.py` with `tensorflow_records.py`: readers of TensorFlow projects.
- `weights.py` and `settings.py`: the steps that the readers share, from tensors to arrays and from settings to ours.
- `budget.py`: the work and memory that a file may cause.
- `errors.py`: the refusals.
"""
