"""`python -m endofm` is the `endofm` command."""

from endofm.cli import main

if __name__ == "__main__":
    main()
