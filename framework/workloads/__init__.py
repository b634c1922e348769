"""What is learned, one file a workload."""
