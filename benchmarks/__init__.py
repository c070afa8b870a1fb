"""Measurements behind the figures of README.md and docs/: `python -m benchmarks.NAME`."""
