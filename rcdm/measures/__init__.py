"""Images and representations -> numbers, each with N, interval and null.

May import data, networks and diffusion. Nothing here draws a figure or knows of a study.
"""
