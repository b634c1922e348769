"""What is stored of samples that are no graphs: images, and pairs of sentences."""
