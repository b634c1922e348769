"""What computes: layers and networks, pure `nn.Module`s on the kernels."""
