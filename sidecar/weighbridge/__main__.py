"""Lets `python -m weighbridge` stand for the `weighbridge` command."""

from weighbridge.cli.main import main

if __name__ == "__main__":
    main()
