"""``python -m stemkit``."""

from stemkit.cli import command

if __name__ == "__main__":
    command()
