"""Layers of other libraries, unchanged, as layers of blocks; each file is alone in importing its library."""
