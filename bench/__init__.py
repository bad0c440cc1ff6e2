"""Benchmarks of the data plane on this machine: `make bench`.

A figure that compares two things measures them alternately in one run, because the speed of a
machine varies over time. A figure is the median of its rounds; low and high are their 10th and 90th
percentile.
"""
