"""Layouts: where the rows and the edges of a full-graph layer are while neighbourhoods are summed."""
