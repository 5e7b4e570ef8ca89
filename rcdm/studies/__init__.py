"""Studies: each module asks one question of a pipeline and answers with images and numbers."""
