"""Raw data: the data sets that can be named, each of which opens as one raw graph."""
