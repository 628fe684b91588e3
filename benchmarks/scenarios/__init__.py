"""What `stylert bench` measures: single-stream, offline, server, cold start and build."""
