"""Code of the command bench: `commands.py` declares its options and runs it, `tables.py` prints results, `loadgen.py` runs LoadGen."""
