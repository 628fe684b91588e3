"""The operators in PyTorch, written as the papers define them. Every other form is tested against these."""
