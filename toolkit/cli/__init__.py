"""The `fptk` command."""


def main() -> None: ...
