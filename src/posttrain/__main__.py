"""`python -m posttrain`: the command line, for torchrun and environments without the script."""

from posttrain.cli.main import main

if __name__ == "__main__":
    main()
