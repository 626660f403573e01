# Signatures of what we call of scipy, which has no types: pyright would infer them from its source, seconds at a time.
