"""The commands of the pipeline: export, build, tune, generate, verify, demo, import."""
