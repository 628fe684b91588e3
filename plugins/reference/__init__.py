"""The operators in PyTorch, written as the papers define them. Tests compare every other form with these.

One file per operator: `upfirdn2d.py`, `modulated_conv2d.py`, `bias_act.py`.
"""
