"""Energy of this machine, as its sensors report it, over windows of time.

A sensor that is missing or may not be read gives no value: never 0, never a constant. Every value
carries its source and whether it is measured, estimated or modelled. The method follows Zeus
(You et al., NSDI 2023): read at synchronised borders of a window and divide by its frames, as
counters move too seldom for one frame.
"""
