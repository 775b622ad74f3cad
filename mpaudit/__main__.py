"""`python -m mpaudit`."""

from mpaudit.cli import main

if __name__ == "__main__":
    main()
