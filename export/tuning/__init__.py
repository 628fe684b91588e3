"""The search for the graph forms that are fastest on one machine."""
