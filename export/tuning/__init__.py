"""`stylert tune`: the fastest plan for one backend on one machine, found by measuring.

1. `tune.py` opens a bundle and makes its default plan again. It hands the plan to the search, together with a function
   that loads the network of any plan.
2. `search.py` changes the plan, times each changed network against the present one, and keeps the faster one.
3. `tune.py` checks the PSNR of the result and writes its network into the bundle. It keeps the time ratios in the
   user's cache.
"""
