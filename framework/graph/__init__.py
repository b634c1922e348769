"""What is stored: the edge stream a partitioner reads, and the shards it leads to."""
