"""Networks: built by name, one forward for all of them."""
