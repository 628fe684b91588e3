"""Command line: `python -m stylert.benchmarks.peers --help`."""

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

from stylert.benchmarks.peers.comparison import main
from stylert.core.programs.runner import run_program

if __name__ == "__main__":
    run_program("peers", main)
