"""Looks at this machine and at others: all I/O of the doctor."""
