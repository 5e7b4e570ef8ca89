"""Training: the loop that both kinds share, and the denoiser's training.

May import data, networks, diffusion and measures.
"""
