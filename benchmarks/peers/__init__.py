"""The same network as people run it without stylert, measured in the same run."""
