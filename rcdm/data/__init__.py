"""Files and photographs -> float [B,3,H,W] in [-1,1], and back: images, the drawn world, transformations, data sets.

Imports nothing else of rcdm. `images` is the only place where PIL, uint8 and files meet tensors; `datasets` loads by
name what `sprites`, `shards` and `hub_stream` give.
"""
