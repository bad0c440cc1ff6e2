"""`python -m splittracr`."""

from splittracr.cli.main import app

if __name__ == "__main__":
    app()
