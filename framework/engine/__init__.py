"""How a worker learns: the loop, its checkpoints and its report; knows no graph, no Ray and no command line."""
