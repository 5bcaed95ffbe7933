"""Measurements that README quotes: `python -m benchmarks NAME [--json FILE]`.

Machines are shared and noisy, so each benchmark runs its reference in the same run, alternating,
and reports medians, ratios and the conditions.
"""
