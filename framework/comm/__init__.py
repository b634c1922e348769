"""What crosses the wire: the group, remote nodes and rows, gradients."""
