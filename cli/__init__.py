"""The `stylert` command: parses, calls a stage, prints."""
