"""Command line: `python -m stylert.benchmarks.peers --help`."""

from stylert.benchmarks.peers.comparison import main

if __name__ == "__main__":
    main()
