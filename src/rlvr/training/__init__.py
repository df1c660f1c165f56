"""What a training run stands on: the optimizer, its checkpoints, its log, the check of sampler against trainer."""
