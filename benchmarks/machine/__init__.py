"""The machine: its facts, its peak rates, the lower bounds that follow, and what else ran on it."""
