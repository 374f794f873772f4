"""`python -m smm4h`: the same as the command `smm4h`."""

from smm4h.cli.main import main

if __name__ == "__main__":
    main()
