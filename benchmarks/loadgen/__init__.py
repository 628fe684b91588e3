"""A network or a running server, judged by MLPerf's LoadGen. It needs the extra `loadgen`.

LoadGen decides when a query comes, takes its time, and says VALID or INVALID. This folder only answers the queries.

- `session`: runs the scenarios in a process of their own, and searches the rate of the server scenario.
- `systems`: what answers, as functions from samples to images: networks of a bundle in that process.
- `kserve_client`: the same for a server, over kept connections of the KServe protocol.
- `queries`: takes the queries of a scenario from LoadGen, and hands it the images.
- `summary`: the verdict, read from LoadGen's own summary.
"""
