"""A checkpoint, up to its logits: files, tokenizer, weights, key-value cache, the record of a position.

What is done with the logits is decided elsewhere.
"""
