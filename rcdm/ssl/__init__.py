"""SSL pretraining of small backbones: views, objectives, the training loop."""
