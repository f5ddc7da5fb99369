"""The rules of the design, section 5: each has a file, and each sentence of it a test of that name."""
