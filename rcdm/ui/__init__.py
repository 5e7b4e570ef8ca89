"""The page: one file per tab; here are widgets and wiring, checkpoints in memory, and several users' calls in one batch.

May import everything but cli.
"""
