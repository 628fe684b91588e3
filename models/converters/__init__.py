"""Writers of checkpoints for the code of other projects."""
