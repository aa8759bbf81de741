"""The command line. Nothing heavy is imported before a command runs: `--help` is instant."""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the `blendsim` command, which ends the process."""
    # NOTE: imported here, since loading it takes most of a fifth of a second, in which an interrupt
    # ends as quietly as in a command.
    try:
        from blendsim.cli.app import main as run

        run()
    except KeyboardInterrupt:
        from blendsim.cli.status import INTERRUPTED

        sys.exit(INTERRUPTED)
