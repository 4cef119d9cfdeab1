"""Models of other frameworks: pretrained checkpoints come in, finetuned ones go out."""
