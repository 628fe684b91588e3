"""Checkpoints of other projects, read without torch and without running any code from them.

`import_checkpoint.py` is the way in. The other files, from bytes to networks:

- `pickle_reader.py`: interprets the opcodes of a pickle into plain data.
- `records.py` and `allow_list.py`: the objects that a pickle may name, as inert records.
- `archive.py`: the containers of `torch.save`.
- `official.py` with `official_modules.py`, `rosinality.py`, `tensorflow.py`: one reader for each project.
- `weights.py` and `settings.py`: the steps that the readers share, from tensors to arrays and from settings to ours.
- `budget.py`: the work and memory that a file may cause.
- `errors.py`: the refusals.
"""
