"""Searches: spaces are sampled here, trials run on Ray, and the store's journal says what was tried."""
