"""SSL pretraining of small backbones: objectives, losses, and what is known of a network afterwards.

May import data, networks, diffusion, measures and training. A new objective is a class in `objectives` and a line in
OBJECTIVES.
"""
