"""`stylert bench` and its tables."""
