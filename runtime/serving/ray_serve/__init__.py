"""A bundle as an application of Ray Serve. Running it needs the extra `ray`, writing it does not.

- `deployment`: writes the folder of the application: its configuration, and the bundle.
- `application`: what Ray imports and runs: dynamic batches in front of a `Generator`.
"""
