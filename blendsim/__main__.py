"""`python -m blendsim` is the `blendsim` command."""

from blendsim.cli import main

if __name__ == "__main__":
    main()
