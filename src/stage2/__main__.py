"""`python -m stage2`: the command line, where the program `stage2` is not on the path."""

from .cli.main import main

if __name__ == "__main__":
    main()
