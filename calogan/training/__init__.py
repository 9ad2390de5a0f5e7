"""GAN training: likelihood pre-training, adversarial training with the published losses, choice of the best epoch."""
