"""Files of users: written whole or not at all, opened within bounds.

- `atomic`: files and folders that appear whole. `partials` names, locks and sweeps their unfinished parts.
- `locks`: keeps other processes out of a folder, for long or for a moment.
- `temporary`: folders for a moment, which the next process removes if this one is killed.
- `outputs`: checks that an output replaces no input and no file of another kind.
- `inputs`: opens regular files up to a size. `digests` hashes them. `json_documents` reads JSON into dataclasses.
- `cache`: the folder of the user's caches. `configuration`: that of the user's settings.
"""
