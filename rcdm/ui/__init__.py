"""The page: a file per tab, with widgets and wiring; checkpoints in memory; several users' calls in one batch.

May import everything but cli.
"""
