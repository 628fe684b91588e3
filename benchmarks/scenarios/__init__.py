"""The scenarios of `stylert bench`: single-stream, offline, server, cold start and build.

- `runner.py`: runs the scenarios, each round in a new process, and makes their rows
- `measure.py`: one round of single-stream or offline, and the timing of calls
- `server.py`: the highest rate of random requests that are answered in time
- `cold_start.py`: from the start of a process to its first image
- `build_time.py`: from the ONNX file to the engine
"""
