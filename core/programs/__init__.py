"""Programs that end in one line: the command `stylert`, the examples and the benchmarks.

- `stop_signals`: Ctrl-C, SIGTERM and SIGHUP, while a program imports its modules and while it runs.
- `runner`: `run_program` runs a function as a program, from its signals and errors to its exit code.
"""
