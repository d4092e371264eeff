"""Packing: any collection of images becomes shards that kdray streams."""
