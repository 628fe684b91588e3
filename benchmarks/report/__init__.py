"""Results as tables, plots and pages, and the comparison of two results."""
