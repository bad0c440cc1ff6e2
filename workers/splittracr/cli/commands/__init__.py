"""The commands of `splittracr` and their options. A command imports torch only if it needs it."""
