"""`python -m mamlpp …` is `mamlpp …`, where the command itself is not on the path."""

from mamlpp.cli import main

if __name__ == "__main__":
    main()
