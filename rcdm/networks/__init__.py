"""Frozen networks -> representations: a network, its levels, its preprocessing, and where all three come from.

May import data. `representation` is one source, `sources` are several; `resolve` finds them by what a user writes.
"""
