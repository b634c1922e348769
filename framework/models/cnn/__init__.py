"""Convolutional networks of images: one of each category of Khan et al. (Artificial Intelligence Review 53, 2020)."""
