"""The page: one file per tab; here are widgets and wiring, and no tensors."""
