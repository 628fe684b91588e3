"""Images of very many seeds in few large files, for training and for evaluation: WebDataset (tar) or Parquet.

The work is resumed after any end of the process, and each seed is there exactly once. A shard appears whole or not at all, and is
named by its first and last seed. The manifest of the folder states the whole work, and other work is refused there.

- `work`: the work: seeds, shards, network and options, with the manifest.
- `files`: writes the pictures of a shard as tar or Parquet.
- `making`: makes the shards that are missing, in this process.
- `ray_tasks`: the same, spread over a Ray cluster.
"""
