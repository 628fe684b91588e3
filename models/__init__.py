"""What a network is: its configuration, its PyTorch modules, its checkpoint, and the readers of other projects' files."""
