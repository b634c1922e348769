"""Settings of every test: one thread for torch, so that tests can run side by side; tests of threads set their own."""

import torch

torch.set_num_threads(1)
