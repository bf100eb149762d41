"""`python -m mrirecon`: the command line."""

from mrirecon.cli import main

if __name__ == "__main__":
    main()
