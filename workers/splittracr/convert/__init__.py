"""From a configuration of SplitTracr (tracr), from which this project grew, to a manifest.

Pure: mappings in, a manifest and notes out. `rules` and `devices` say what becomes of each key,
`study` puts the parts together, `document` writes them down.
"""
