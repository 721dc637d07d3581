"""`mamlpp …`, or `python -m mamlpp …` where the command itself is not on the path."""

from mamlpp.terminal import end_on_signals


def main() -> None:
    """Run one command, as `mamlpp.cli.main` does; listen to signals before the long imports."""
    end_on_signals()
    from mamlpp.cli import main

    main()


if __name__ == "__main__":
    main()
