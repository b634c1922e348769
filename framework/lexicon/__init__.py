"""Which word of one language goes with which of another: alignments, priors over words, and how words are chosen."""
