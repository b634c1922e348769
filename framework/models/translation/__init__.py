"""Networks that translate: their parts, and the models made of them."""
