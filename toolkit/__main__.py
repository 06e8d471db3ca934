"""``python -m fptk`` is the ``fptk`` command."""

from fptk.cli import main

if __name__ == "__main__":
    main()
