"""Kernels: what the graph side of a step spends its time in, each in C++ with a torch twin.

- `csr`        in-edge CSR of an edge list, its transpose, degrees
- `sample`     neighbours without replacement, relabelling of a frontier, gathering and scattering rows
- `aggregate`  weighted and mean sums over in-edges (SpMM), with gradients
- `attention`  softmax over in-edges, alone or fused with its weighted sum, with gradients
- `paths`      the cheapest paths around nodes, by costs of edges, and what changed costs reach
- `path_pool`  attention over paths that are pooled to a row each, with gradients
- `geometric`  sums over in-edges gated by relative positions (geo-GCN), with gradients
- `coarsen`    greedy matching of neighbours, edges between clusters
- `dropout`    masks keyed by original ids, alone or fused with ReLU, with gradients
- `sparse_rows`  distributions over few tokens a row, and a model's divergence from them, with gradients (torch alone)
- `partition`  the inner loops of the partitioners
- `native`     loads the compiled C++ (`source/`) and calls it

A function here takes tensors and picks the C++ for those in main memory, its torch twin otherwise: on a GPU, where
nothing was compiled, and where the environment says `SHARDYARD_KERNELS=torch`. Both give the same integers to the bit
and the same floats to rounding, and each is deterministic whatever the number of threads: every output row is
computed by one thread, in the order of the row.
"""
