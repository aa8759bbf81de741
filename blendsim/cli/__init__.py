"""The command line. Nothing heavy is imported before a command runs: `--help` is instant."""

from blendsim.cli.app import main

__all__ = ["main"]
