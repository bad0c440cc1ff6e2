"""The command line. Its `--help` is documentation."""
