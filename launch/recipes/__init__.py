"""Recipes: functions without arguments that return a run. `shardyard train NAME` starts one, every field a flag."""
