"""What the data plane reaches on this machine: `make bench`.

Every figure that compares two things measures them in turn within one run, since machines differ
and so do their hours. A figure is a median; low and high are the 10th and the 90th percentile of
the rounds it is made of.
"""
