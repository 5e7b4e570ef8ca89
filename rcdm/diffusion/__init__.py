"""Representations -> images: the noise, the denoiser, the pipeline, and checkpoints on disk.

May import data and networks. `process` has the formulas and the samplers, `image_space` where noise is added;
`official` holds what belongs to the released RCDMs alone.
"""
