"""The study as data: its manifest, its records and the types every other part shares.

Nothing here imports torch or touches a file, a clock or a socket, so that the workers, the
command line and the operator can all depend on it.
"""
