"""Who starts a run: the command line, its recipes, and the launchers. The only place that names everything."""
