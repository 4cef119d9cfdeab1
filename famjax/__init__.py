"""Working memory for language models: TransformerFAM (arXiv 2404.09173) in JAX and Flax."""
