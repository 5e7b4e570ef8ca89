"""The released RCDMs: their weights, their sampler, their loss.

May import what diffusion may.
"""
