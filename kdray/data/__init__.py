"""Data: sources become shards, shards become batches.

`sources` resolves what an experiment names, `shards` is the format (manifest, reader, writer), `decode` turns encoded
bytes into pixels; order, draws, augmentation and the feeds stand on those. Nothing heavy is imported here.
"""
