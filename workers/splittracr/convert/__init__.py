"""Converts a configuration of SplitTracr (tracr), from which this project grew, to a manifest.

Pure: mappings in, a manifest and notes out. `rules` and `devices` define the outcome of each key,
`study` joins the parts, `document` writes the text.
"""
